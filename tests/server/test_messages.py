"""Anthropic's Messages, with the official client and against its types, over a scripted engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import Message, RawMessageStreamEvent

from llmplug.chat.channels import Dialect
from llmplug.dialect import JsonCalls, ReasoningSyntax, in_template
from llmplug.errors import EngineError, EngineUnavailable
from llmplug.specs import ReasoningParserSpec, ToolParserSpec
from llmplug.types import FinishReason

from .conftest import Running, StartServer
from .fake_engine import EOS, fail_after, silent, speak
from .strict_openai import check_openai as check_type

DIALECT = Dialect(
    ReasoningParserSpec(
        name="toy",
        detect=in_template("x"),
        syntax=ReasoningSyntax(start=("<think>",), end="</think>", ended_by=("<tool_call>",)),
        thinking_on={"thinks": True},
        thinking_off={"thinks": False},
    ),
    ToolParserSpec(
        name="toy",
        detect=in_template("x"),
        syntax=(JsonCalls(start=("<tool_call>",), end="</tool_call>"),),
    ),
)
TOOLS = [
    {
        "name": "weather",
        "description": "Of a city.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
]
SAID = (
    "<think>Hm.</think>\n\nSure.\n"
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
)
ASK: dict[str, Any] = {
    "model": "toy",
    "max_tokens": 200,
    "messages": [{"role": "user", "content": "Hi"}],
}


@pytest.fixture
async def server(start: StartServer) -> Running:
    server = await start(
        speak(*(SAID[i : i + 5] for i in range(0, len(SAID), 5)), cached=1), dialect=DIALECT
    )
    server.renderer.variables = frozenset({"thinks"})
    return server


@pytest.fixture
async def client(server: Running) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=server.url, api_key="none", max_retries=0, timeout=10
    ) as client:
        yield client


async def post(server: Running, **fields: Any) -> httpx.Response:
    return await server.http.post("/v1/messages", json={**ASK, **fields})


def read_events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The events of a stream, each held against the client's types; names and data agree."""
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] not in ("ping", "error"):
            check_type(event, RawMessageStreamEvent)
        yield event


async def test_a_reply_is_what_its_events_make(client: anthropic.AsyncAnthropic) -> None:
    whole = await client.messages.create(**ASK, tools=TOOLS)
    async with client.messages.stream(**ASK, tools=TOOLS) as stream:
        streamed = await stream.get_final_message()
    thinking, text, call = whole.content
    assert thinking.type == "thinking"
    assert thinking.thinking == "Hm."
    assert text.type == "text"
    assert text.text == "Sure."
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("weather", {"city": "Rome"})
    assert whole.stop_reason == "tool_use"
    assert whole.usage.cache_read_input_tokens == 1
    assert whole.usage.output_tokens > 10

    def without_ids(message: Message) -> dict[str, Any]:
        fields = message.model_dump(exclude={"id"}, exclude_none=True)
        for block in fields["content"]:
            block.pop("id", None)
            block.pop("parsed_output", None)
        return fields

    assert without_ids(streamed) == without_ids(whole)


async def test_bodies_and_events_are_as_the_types_say(server: Running) -> None:
    body = (await post(server, tools=TOOLS)).json()
    check_type(body, Message)
    events = list(read_events(await post(server, tools=TOOLS, stream=True)))
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    open_index = -1
    for event in events:  # one block is open at a time, and they are counted
        if event["type"] == "content_block_start":
            assert event["index"] == open_index + 1
            open_index = event["index"]
        elif event["type"].startswith("content_block"):
            assert event["index"] == open_index
    assert events[-2]["usage"] == body["usage"]


async def test_history_becomes_the_messages_of_a_chat(server: Running) -> None:
    await post(
        server,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        tools=TOOLS,
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Rome?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Look.", "signature": "x"},
                    {"type": "redacted_thinking", "data": "sealed"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Rome"}},
                    {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": "sunny"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "b",
                        "is_error": True,
                        "content": [{"type": "text", "text": "no city"}],
                    },
                    {"type": "text", "text": "And?"},
                ],
            },
        ],
    )
    system, first, answer, sunny, failed, last = server.renderer.calls[-1]["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert first == {"role": "user", "content": "Rome?"}
    assert answer["content"] == "I look."
    assert answer["reasoning_content"] == "Look."
    assert [call["id"] for call in answer["tool_calls"]] == ["a", "b"]
    assert (sunny["role"], sunny["tool_call_id"], sunny["content"]) == ("tool", "a", "sunny")
    assert (failed["tool_call_id"], failed["content"]) == ("b", "Error: no city")
    assert last == {"role": "user", "content": "And?"}


async def test_the_last_message_may_be_the_beginning_of_the_answer(server: Running) -> None:
    messages = [*ASK["messages"], {"role": "assistant", "content": "The answer is"}]
    assert (await post(server, messages=messages)).status_code == 200
    call = server.renderer.calls[-1]
    assert call["continue_final_message"] is True
    assert call["add_generation_prompt"] is False


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {}),
        ({"thinking": {"type": "enabled", "budget_tokens": 50}}, {"thinks": True}),
        ({"thinking": {"type": "adaptive"}}, {"thinks": True}),
        ({"thinking": {"type": "disabled"}}, {"thinks": False}),
        ({"output_config": {"effort": "low"}}, {"thinks": True}),
    ],
)
async def test_thinking_is_turned_on_and_off(
    server: Running, fields: dict[str, Any], options: dict[str, Any]
) -> None:
    response = await post(server, **fields)
    assert response.status_code == 200, response.text
    assert (server.renderer.calls[-1]["template_kwargs"] or {}) == options


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(
    ("fields", "reason", "sequence"),
    [
        ({}, "end_turn", None),
        ({"stop_sequences": ["zzz", "lo w"]}, "stop_sequence", "lo w"),
        ({"max_tokens": 1}, "max_tokens", None),
    ],
)
async def test_why_it_stopped(
    start: StartServer, fields: dict[str, Any], reason: str, sequence: str | None, is_streamed: bool
) -> None:
    finish = FinishReason.LENGTH if reason == "max_tokens" else FinishReason.STOP
    server = await start(speak("Hel", "lo w", "orld", finish=finish))
    response = await post(server, **fields, stream=is_streamed)
    told = list(read_events(response))[-2]["delta"] if is_streamed else response.json()
    assert (told["stop_reason"], told["stop_sequence"]) == (reason, sequence)


async def test_a_budget_is_kept_where_it_can_be(server: Running) -> None:
    thinking = {"type": "enabled", "budget_tokens": 50}
    response = await post(server, thinking=thinking)  # `</think>` is eight tokens here
    assert response.headers["X-Llmplug-Ignored"] == "thinking.budget_tokens"
    assert server.engine.requests[-1].thinking is None
    one_token = replace(DIALECT.reasoning, syntax=ReasoningSyntax(start=("(",), end=EOS))
    server.service.models[0].dialect = replace(DIALECT, reasoning=one_token)
    response = await post(server, thinking=thinking)
    assert "X-Llmplug-Ignored" not in response.headers
    assert server.engine.requests[-1].thinking.max_tokens == 50


async def test_tokens_are_counted(client: anthropic.AsyncAnthropic) -> None:
    counted = await client.messages.count_tokens(model="toy", messages=ASK["messages"])
    message = await client.messages.create(**ASK)
    usage = message.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


async def test_fields_that_nobody_knows_are_listed(server: Running) -> None:
    response = await post(server, metadata={"user_id": "x"}, speed_of_light=1)
    assert response.status_code == 200
    assert response.headers["X-Llmplug-Ignored"] == "speed_of_light"


IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": None}, "'max_tokens'"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "'messages'"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "'messages[0].content[0]'"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "'messages[0].role'"),
        ({"messages": [{"role": "user", "content": 3}]}, "'messages[0].content'"),
        ({"system": [IMAGE]}, "'system[0]'"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "'tools[0].type'"),
        ({"tools": [{"name": "x", "input_schema": {"type": 3}}]}, "'tools[0].input_schema"),
        ({"tools": [{"name": "x y", "input_schema": {}}]}, "tools[0].name"),
        ({"tool_choice": {"type": "some"}, "tools": TOOLS}, "'tool_choice.type'"),
        ({"stop_sequences": [""]}, "'stop_sequences'"),
        ({"temperature": -1.0}, "temperature"),
        ({"thinking": {"type": "enabled", "budget_tokens": 300}}, "'thinking.budget_tokens'"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, "'thinking'"),
        ({"mcp_servers": [{"url": "x"}]}, "'mcp_servers'"),
    ],
)
async def test_refusals_name_the_field(server: Running, fields: dict[str, Any], words: str) -> None:
    response = await post(server, **fields)
    assert response.status_code == 400
    error = response.json()
    assert error["type"] == "error"
    assert error["error"]["type"] == "invalid_request_error"
    assert words in error["error"]["message"]
    assert error["request_id"] == response.headers["request-id"]


async def test_every_error_has_their_shape(start: StartServer) -> None:
    server = await start(api_keys=("key",), max_body_bytes=1000)
    full = await start(api_keys=("key",), max_waiting_requests=0)
    with_key = {"x-api-key": "key"}
    send = server.http.post
    answers = {
        "authentication_error": await send("/v1/messages", json=ASK),
        "not_found_error": await send(
            "/v1/messages", json={**ASK, "model": "other"}, headers=with_key
        ),
        "rate_limit_error": await full.http.post("/v1/messages", json=ASK, headers=with_key),
        "request_too_large": await send(
            "/v1/messages", json={**ASK, "system": "x" * 2000}, headers=with_key
        ),
    }
    for kind, response in answers.items():
        error = response.json()
        assert (error["type"], error["error"]["type"]) == ("error", kind)
    assert (await send("/v1/messages/batches", json=ASK, headers=with_key)).status_code == 404
    other = await send("/v1/chat/completions", json={}, headers=with_key)
    assert "param" in other.json()["error"]  # OpenAI's, elsewhere


async def test_the_client_raises_what_it_should(start: StartServer) -> None:
    server = await start(fail_after(EngineUnavailable("gone")))
    async with anthropic.AsyncAnthropic(
        base_url=server.url, api_key="none", max_retries=0
    ) as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.messages.create(**ASK)
        assert caught.value.status_code == 503
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(**{**ASK, "model": "other"})


async def test_a_stream_that_fails_ends_with_one_error(start: StartServer) -> None:
    server = await start(fail_after(EngineError("inside"), "Hel", "lo"))
    events = list(read_events(await post(server, stream=True)))
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"
    assert "inside" not in events[-1]["error"]["message"]
    assert not any(event["type"] == "message_stop" for event in events)


async def test_silence_is_broken_by_pings(
    start: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmplug.server.sse.HEARTBEAT_S", 0.05)
    monkeypatch.setattr("llmplug.server.routes.answer.STATUS_GRACE_S", 0.01)
    server = await start(silent)
    num_pings = 0
    body = {**ASK, "stream": True}
    async with server.http.stream("POST", "/v1/messages", json=body) as response:
        async for line in response.aiter_lines():
            num_pings += line == "event: ping"
            if num_pings == 3:
                break
