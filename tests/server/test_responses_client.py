"""The official client with the Responses API, as its users use it, over a scripted engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pydantic
import pytest
from openai.types.responses import ResponseFunctionToolCall, ResponseReasoningItem

from llmplug.errors import EngineUnavailable

from .conftest import Running, StartServer, until
from .fake_engine import endless, fail_after, speak
from .test_responses import TOOLS
from .test_responses_requests import AnyGrammar
from .test_tools import DIALECT, write_call


@pytest.fixture
async def server(start: StartServer) -> Running:
    return await start(speak("Hello", " ✓ ", "world"), dialect=DIALECT, grammars=AnyGrammar())


@pytest.fixture
async def client(server: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10
    ) as client:
        yield client


async def test_create_and_go_on(server: Running, client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model="toy", input="Hi", instructions="Be kind.")
    assert (first.output_text, first.status) == ("Hello ✓ world", "completed")
    assert first.usage is not None
    assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
    # As the docs tell people who keep the conversation themselves: send the output back.
    history: list[Any] = [{"role": "user", "content": "Hi"}, *first.output]
    await client.responses.create(
        model="toy", input=[*history, {"role": "user", "content": "Go on."}], store=False
    )
    by_hand = server.renderer.calls[-1]["messages"]
    await client.responses.create(model="toy", input="Go on.", previous_response_id=first.id)
    assert server.renderer.calls[-1]["messages"] == by_hand


async def test_stored(client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(model="toy", input=[{"role": "user", "content": "Hi"}])
    assert await client.responses.retrieve(made.id) == made
    items = [item async for item in client.responses.input_items.list(made.id, limit=1)]
    assert [item.type for item in items] == ["message"]
    await client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(made.id)


async def test_input_tokens(client: openai.AsyncOpenAI) -> None:
    counted = await client.responses.input_tokens.count(model="toy", input="Hi")
    made = await client.responses.create(model="toy", input="Hi")
    assert made.usage is not None
    assert counted.input_tokens == made.usage.input_tokens


async def test_stream_helper(server: Running, client: openai.AsyncOpenAI) -> None:
    """The accumulating helper checks the order of events more closely than a loop does."""
    server.engine.script = speak("<think>Hm.</think>Let me", " see. ", write_call("weather"))
    async with client.responses.stream(model="toy", input="Hi", tools=TOOLS) as stream:
        kinds = [event.type async for event in stream]
        reply = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert reply.output_text == "Let me see."
    thinking, _, call = reply.output
    assert isinstance(thinking, ResponseReasoningItem)
    assert thinking.content is not None
    assert thinking.content[0].text == "Hm."
    assert isinstance(call, ResponseFunctionToolCall)
    assert (call.name, call.arguments) == ("weather", "{}")


class Weather(pydantic.BaseModel):
    city: str
    degrees: int


async def test_parse(server: Running, client: openai.AsyncOpenAI) -> None:
    server.engine.script = speak('{"city": "Rome", ', '"degrees": 21}')
    reply = await client.responses.parse(model="toy", input="Hi", text_format=Weather)
    assert reply.output_parsed == Weather(city="Rome", degrees=21)
    async with client.responses.stream(model="toy", input="Hi", text_format=Weather) as stream:
        final = await stream.get_final_response()
    assert final.output_parsed == Weather(city="Rome", degrees=21)


async def test_parsed_tool(server: Running, client: openai.AsyncOpenAI) -> None:
    server.engine.script = speak(write_call("Weather", city="Rome", degrees=21))
    tools = [openai.pydantic_function_tool(Weather)]
    reply = await client.responses.parse(model="toy", input="Hi", tools=tools)
    (call,) = reply.output
    assert call.type == "function_call"
    assert call.parsed_arguments == Weather(city="Rome", degrees=21)


async def test_background(server: Running, client: openai.AsyncOpenAI) -> None:
    server.engine.script = endless()
    made = await client.responses.create(model="toy", input="Hi", background=True)
    assert made.status == "queued"
    stream = await client.responses.retrieve(made.id, stream=True, starting_after=1)
    async for event in stream:
        assert event.sequence_number > 1
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    ended = await client.responses.cancel(made.id)
    assert ended.status == "cancelled"
    await until(lambda: server.engine.num_open == 0)


async def test_error_in_the_middle_of_a_stream(server: Running, client: openai.AsyncOpenAI) -> None:
    server.engine.script = fail_after(EngineUnavailable("The engine died."), "a", "b")
    stream = await client.responses.create(model="toy", input="Hi", stream=True)
    last = [event async for event in stream][-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "The engine died."


async def test_refusal(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="toy", input="Hi", tools=[{"type": "web_search"}])
    assert caught.value.param == "tools[0].type"
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="other", input="Hi")


async def test_sync_client(server: Running) -> None:
    """The client without asyncio, in a thread of its own."""

    def use() -> tuple[str, list[str], str]:
        with openai.OpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10
        ) as client:
            made = client.responses.create(model="toy", input="Hi")
            kinds: list[str] = [
                event.type for event in client.responses.create(model="toy", input="x", stream=True)
            ]
            with client.responses.stream(model="toy", input="x") as stream:
                text = stream.get_final_response().output_text
            assert client.responses.retrieve(made.id) == made
            client.responses.delete(made.id)
            return made.output_text, kinds, text

    text, kinds, streamed = await asyncio.to_thread(use)
    assert text == streamed == "Hello ✓ world"
    assert kinds[-1] == "response.completed"
