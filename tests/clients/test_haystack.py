"""Haystack's generators and embedders, which are made on OpenAI's client."""

from __future__ import annotations

from typing import Any

import pytest

chat = pytest.importorskip("haystack.components.generators.chat")
embedders = pytest.importorskip("haystack.components.embedders")
haystack = pytest.importorskip("haystack")
dataclasses = pytest.importorskip("haystack.dataclasses")
secrets = pytest.importorskip("haystack.utils")

pytestmark = pytest.mark.slow


def test_chat(server: Any) -> None:
    asked: Any = {
        "api_key": secrets.Secret.from_token(server.key),
        "api_base_url": server.url,
        "model": "chat",
        "generation_kwargs": {"temperature": 0, "max_tokens": 30},
    }
    messages = [dataclasses.ChatMessage.from_user("What is the capital of France?")]
    (whole,) = chat.OpenAIChatGenerator(**asked).run(messages)["replies"]
    assert "Paris" in whole.text
    parts: list[str] = []
    generator = chat.OpenAIChatGenerator(
        streaming_callback=lambda chunk: parts.append(chunk.content), **asked
    )
    generator.run(messages)
    assert "".join(parts) == whole.text


def test_embeddings(server: Any) -> None:
    embedder = embedders.OpenAIDocumentEmbedder(
        api_key=secrets.Secret.from_token(server.key), api_base_url=server.url, model="embeddings"
    )
    documents = [haystack.Document(content="a cat"), haystack.Document(content="a dog")]
    found = embedder.run(documents)["documents"]
    assert [len(each.embedding) for each in found] == [384, 384]
