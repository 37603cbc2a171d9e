"""LlamaIndex, by its classes for servers that are like OpenAI's."""

from __future__ import annotations

from typing import Any

import pytest

openai_like = pytest.importorskip("llama_index.llms.openai_like")
embeddings_like = pytest.importorskip("llama_index.embeddings.openai_like")
llms = pytest.importorskip("llama_index.core.llms")

pytestmark = pytest.mark.slow


@pytest.fixture
def llm(server: Any) -> Any:
    return openai_like.OpenAILike(
        model="chat",
        api_base=server.url,
        api_key=server.key,
        is_chat_model=True,
        temperature=0,
        max_tokens=30,
    )


async def test_chat(llm: Any) -> None:
    messages = [llms.ChatMessage(role="user", content="What is the capital of France?")]
    whole = llm.chat(messages)
    assert "Paris" in whole.message.content
    *_, last = llm.stream_chat(messages)
    assert last.message.content == whole.message.content
    same = await llm.achat(messages)
    assert same.message.content == whole.message.content


def test_embeddings(server: Any) -> None:
    model = embeddings_like.OpenAILikeEmbedding(
        model_name="embeddings", api_base=server.url, api_key=server.key
    )
    one, other = model.get_text_embedding_batch(["a cat", "a dog"])
    assert len(one) == len(other) == 384
    assert model.get_query_embedding("a cat") == pytest.approx(one)
