"""OpenAI's own client: both kinds of it, whole and streamed, chats, Responses, forms, vectors."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel

openai = pytest.importorskip("openai")

pytestmark = pytest.mark.slow
MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: Any = {"model": "chat", "temperature": 0}


class Town(BaseModel):
    """A town."""

    name: Literal["Paris", "Oslo"]
    is_capital: bool


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Any]:
    with openai.OpenAI(base_url=server.url, api_key=server.key, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(server: Any) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=server.url, api_key=server.key, max_retries=0) as client:
        yield client


def test_chat(client: Any) -> None:
    whole = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    assert "Paris" in whole.choices[0].message.content
    stream = client.chat.completions.create(messages=MESSAGES, stream=True, **GREEDY)
    parts = [choice.delta.content or "" for chunk in stream for choice in chunk.choices]
    assert "".join(parts) == whole.choices[0].message.content


async def test_async_chat(async_client: Any, client: Any) -> None:
    whole = await async_client.chat.completions.create(messages=MESSAGES, **GREEDY)
    same = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    assert whole.choices[0].message == same.choices[0].message
    stream = await async_client.chat.completions.create(messages=MESSAGES, stream=True, **GREEDY)
    parts = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    assert "".join(parts) == whole.choices[0].message.content


def test_parsed_chat(client: Any) -> None:
    reply = client.chat.completions.parse(messages=MESSAGES, response_format=Town, **GREEDY)
    assert isinstance(reply.choices[0].message.parsed, Town)
    with client.chat.completions.stream(
        messages=MESSAGES, response_format=Town, **GREEDY
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"content.delta", "content.done"} <= kinds
    assert final.choices[0].message.parsed == reply.choices[0].message.parsed


def test_parsed_call(client: Any) -> None:
    tool = openai.pydantic_function_tool(Town)
    reply = client.chat.completions.parse(
        messages=MESSAGES, tools=[tool], tool_choice="required", parallel_tool_calls=False, **GREEDY
    )
    (call,) = reply.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Town)


def test_response(client: Any) -> None:
    whole = client.responses.create(input="What is the capital of France?", **GREEDY)
    assert "Paris" in whole.output_text
    stream = client.responses.create(input="What is the capital of France?", stream=True, **GREEDY)
    events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == whole.output_text
    second = client.responses.create(
        input="And of Norway?", previous_response_id=whole.id, **GREEDY
    )
    assert second.usage.input_tokens > whole.usage.input_tokens


async def test_parsed_response(async_client: Any) -> None:
    reply = await async_client.responses.parse(input="A town?", text_format=Town, **GREEDY)
    assert isinstance(reply.output_parsed, Town)
    async with async_client.responses.stream(input="A town?", text_format=Town, **GREEDY) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert final.output_parsed == reply.output_parsed


def test_embeddings(client: Any) -> None:
    """The client asks for base64 unless it is told otherwise."""
    packed = client.embeddings.create(model="embeddings", input=["a cat", "a dog"])
    plain = client.embeddings.create(
        model="embeddings", input=["a cat", "a dog"], encoding_format="float"
    )
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding)
        assert math.isclose(sum(x * x for x in one.embedding), 1, rel_tol=1e-4)


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["chat", "embeddings"]


def test_errors(server: Any, client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.chat.completions.create(model="nobody", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="chat", messages=MESSAGES, temperature=-1)
    assert caught.value.param == "temperature"
    stranger = openai.OpenAI(base_url=server.url, api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
