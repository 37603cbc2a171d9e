"""LiteLLM, by each of the providers whose words the server speaks."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict

litellm = pytest.importorskip("litellm")

pytestmark = pytest.mark.slow
MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]


class Town(BaseModel):
    """A town."""

    model_config = ConfigDict(extra="forbid")

    name: Literal["Paris", "Oslo"]


@pytest.fixture
def asked(server: Any) -> dict[str, Any]:
    return {"api_base": server.url, "api_key": server.key, "temperature": 0, "max_tokens": 30}


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
async def test_chat(asked: dict[str, Any], provider: str) -> None:
    asked["model"] = f"{provider}/chat"
    whole = litellm.completion(messages=MESSAGES, **asked)
    assert "Paris" in whole.choices[0].message.content
    parts = [
        chunk.choices[0].delta.content or ""
        for chunk in litellm.completion(messages=MESSAGES, stream=True, **asked)
    ]
    assert "".join(parts) == whole.choices[0].message.content
    same = await litellm.acompletion(messages=MESSAGES, **asked)
    assert same.choices[0].message.content == whole.choices[0].message.content


def test_messages_of_anthropic(server: Any, asked: dict[str, Any]) -> None:
    asked |= {"model": "anthropic/chat", "api_base": server.root}
    whole = litellm.completion(messages=MESSAGES, **asked)
    assert "Paris" in whole.choices[0].message.content


def test_form(asked: dict[str, Any]) -> None:
    asked["model"] = "openai/chat"
    reply = litellm.completion(messages=MESSAGES, response_format=Town, **asked)
    assert Town.model_validate_json(reply.choices[0].message.content)


def test_forced_call(asked: dict[str, Any]) -> None:
    tool = {
        "type": "function",
        "function": {"name": "town", "parameters": Town.model_json_schema()},
    }
    choice = {"type": "function", "function": {"name": "town"}}
    asked["model"] = "openai/chat"
    reply = litellm.completion(messages=MESSAGES, tools=[tool], tool_choice=choice, **asked)
    (call,) = reply.choices[0].message.tool_calls
    assert Town.model_validate_json(call.function.arguments)


def test_response(asked: dict[str, Any]) -> None:
    del asked["max_tokens"]
    reply = litellm.responses(model="openai/chat", input="What is the capital of France?", **asked)
    assert "Paris" in reply.output_text


def test_text(asked: dict[str, Any]) -> None:
    asked["model"] = "text-completion-openai/chat"
    reply = litellm.text_completion(prompt="The capital of France is", **asked)
    assert "Paris" in reply.choices[0].text


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_embedding(server: Any, provider: str) -> None:
    reply = litellm.embedding(
        model=f"{provider}/embeddings", input=["a", "b"], api_base=server.url, api_key=server.key
    )
    assert [len(each["embedding"]) for each in reply.data] == [384, 384]


@pytest.mark.parametrize(("provider", "path"), [("cohere", "v2/rerank"), ("hosted_vllm", "v1")])
def test_rerank(server: Any, provider: str, path: str) -> None:
    texts = ["Bread is baked.", "A kitten is a young cat."]
    reply = litellm.rerank(
        model=f"{provider}/embeddings",
        query="What is a kitten?",
        documents=texts,
        api_base=f"{server.root}/{path}",
        api_key=server.key,
    )
    assert [each["index"] for each in reply.results] == [1, 0]


def test_errors(asked: dict[str, Any]) -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=MESSAGES, **{**asked, "model": "openai/nobody"})
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(messages=MESSAGES, **{**asked, "model": "openai/chat", "api_key": "x"})
