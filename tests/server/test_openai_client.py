"""The official client, as its users use it, over a scripted engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest

from llmplug.errors import EngineUnavailable

from .conftest import Running, StartServer
from .fake_engine import fail_after, speak

MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def server(start: StartServer) -> Running:
    return await start(speak("Hello", " ✓ ", "world"))


@pytest.fixture
async def client(server: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10
    ) as client:
        yield client


async def test_chat(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="toy", messages=MESSAGES, n=2)
    assert [choice.message.content for choice in reply.choices] == ["Hello ✓ world"] * 2
    assert reply.usage is not None
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 0


async def test_chat_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="toy", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    text, usage, reason = "", None, None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    assert (text, reason) == ("Hello ✓ world", "stop")
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


async def test_stream_helper(client: openai.AsyncOpenAI) -> None:
    """The accumulating helper checks the order of events more closely than a loop does."""
    async with client.chat.completions.stream(
        model="toy", messages=MESSAGES, logprobs=True, top_logprobs=2
    ) as stream:
        kinds = [event.type async for event in stream]
        reply = await stream.get_final_completion()
    assert "content.done" in kinds
    choice = reply.choices[0]
    assert choice.message.content == "Hello ✓ world"
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    raw = bytes(b for token in choice.logprobs.content for b in token.bytes or [])
    assert raw.decode() == "Hello ✓ world"


async def test_completions(client: openai.AsyncOpenAI) -> None:
    reply = await client.completions.create(model="toy", prompt=["a", "b"], logprobs=1)
    assert [choice.text for choice in reply.choices] == ["Hello ✓ world"] * 2
    stream = await client.completions.create(model="toy", prompt="a", stream=True)
    parts = [chunk.choices[0].text async for chunk in stream]
    assert "".join(parts) == "Hello ✓ world"


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["toy"]
    assert (await client.models.retrieve("org/toy")).id == "toy"


async def test_error_in_the_middle_of_a_stream(server: Running, client: openai.AsyncOpenAI) -> None:
    server.engine.script = fail_after(EngineUnavailable("The engine died."), "a", "b")
    stream = await client.chat.completions.create(model="toy", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="The engine died"):
        async for _ in stream:
            pass
