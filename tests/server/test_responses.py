"""POST /v1/responses over a scripted engine: bodies and events against the official types."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent

from llmplug.chat.channels import Dialect
from llmplug.errors import EngineUnavailable
from llmplug.types import FinishReason

from .conftest import Running, StartServer
from .fake_engine import endless, fail_after, speak
from .strict_openai import check_openai
from .test_tools import DIALECT, REASONING_SPEC, SCRIPTS, cut, write_call

TERMINAL = {"response.completed", "response.incomplete", "response.failed"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: list[Any] = [
    {"type": "function", "name": "weather", "parameters": PARAMETERS, "description": "Says it."},
    {"type": "function", "name": "time", "parameters": PARAMETERS},
]


async def respond(server: Running, **fields: Any) -> Any:
    body = {"model": "toy", "input": "Hi", **fields}
    return await server.http.post("/v1/responses", json=body)


def read_stream(text: str) -> list[dict[str, Any]]:
    """The events of a stream: each of an official type, in order, one of them last."""
    events = []
    for block in text.split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        check_openai(event, ResponseStreamEvent)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] in TERMINAL for event in events] == [False] * (len(events) - 1) + [True]
    return events


def rebuild(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output that the deltas of a stream come to, by a reader that knows nothing of ours."""
    items: dict[int, dict[str, Any]] = {}
    for event in events:
        kind = event["type"].removeprefix("response.")
        index: int = event.get("output_index", -1)
        if kind == "output_item.added":
            assert index == len(items)
            items[index] = event["item"]
        elif kind == "content_part.added":
            items[index]["content"].insert(event["content_index"], event["part"])
        elif kind in {"output_text.delta", "reasoning_text.delta"}:
            items[index]["content"][event["content_index"]]["text"] += event["delta"]
        elif kind in {"output_text.done", "reasoning_text.done"}:
            assert items[index]["content"][event["content_index"]]["text"] == event["text"]
        elif kind == "function_call_arguments.delta":
            items[index]["arguments"] += event["delta"]
        elif kind == "function_call_arguments.done":
            assert items[index]["arguments"] == event["arguments"]
        elif kind == "custom_tool_call_input.delta":
            items[index]["input"] += event["delta"]
        elif kind == "output_item.done":
            done = event["item"]
            assert {**items[index], "status": None} == {
                **without_logprobs(done),
                "status": None,
            }
            items[index] = done
        if "item_id" in event:
            assert event["item_id"] == items[index]["id"]
    return list(items.values())


def without_logprobs(item: dict[str, Any]) -> dict[str, Any]:
    if item["type"] != "message":
        return item
    return {**item, "content": [{**part, "logprobs": []} for part in item["content"]]}


async def ask(server: Running, is_streamed: bool, **fields: Any) -> dict[str, Any]:
    """The response, whole or as the last event has it, held against its type and its deltas."""
    reply = await respond(server, stream=is_streamed, **fields)
    assert reply.status_code == 200, reply.text
    if is_streamed:
        events = read_stream(reply.text)
        assert [event["type"] for event in events[:2]] == [
            "response.created",
            "response.in_progress",
        ]
        body: dict[str, Any] = events[-1]["response"]
        assert events[-1]["type"] == f"response.{body['status']}"
        assert rebuild(events) == body["output"]
    else:
        body = reply.json()
    check_openai(body, Response)
    return body


def without_ids(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in each.items() if k not in {"id", "call_id"}} for each in items]


def text_item(text: str, status: str = "completed") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "status": status, "role": "assistant", "content": [part]}


def thinking_item(text: str, status: str = "completed") -> dict[str, Any]:
    part = {"type": "reasoning_text", "text": text}
    return {"type": "reasoning", "status": status, "summary": [], "content": [part]}


def call_item(name: str, arguments: str, status: str = "completed") -> dict[str, Any]:
    return {"type": "function_call", "status": status, "name": name, "arguments": arguments}


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_text(start: StartServer, is_streamed: bool) -> None:
    server = await start(speak("Hello", " ✓ ", "world", cached=3))
    body = await ask(server, is_streamed, metadata={"a": "b"}, user="me", instructions="Be kind.")
    assert without_ids(body["output"]) == [text_item("Hello ✓ world")]
    assert body["status"] == "completed"
    assert body["completed_at"] >= body["created_at"]
    assert (body["metadata"], body["user"]) == ({"a": "b"}, "me")
    assert body["usage"] == {
        "input_tokens": len(server.engine.requests[0].prompt_ids),
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 16,  # bytes, and the end
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": len(server.engine.requests[0].prompt_ids) + 16,
    }
    assert server.renderer.calls[0]["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
    ]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_cut_answer_is_incomplete(start: StartServer, is_streamed: bool) -> None:
    server = await start(speak("Hello", " wor", finish=FinishReason.LENGTH))
    body = await ask(server, is_streamed, max_output_tokens=9)
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["max_output_tokens"] == 9
    assert without_ids(body["output"]) == [text_item("Hello wor", "incomplete")]
    assert server.engine.requests[0].sampling.max_tokens == 9


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_empty_answer_is_an_empty_message(start: StartServer, is_streamed: bool) -> None:
    server = await start(speak(""))
    body = await ask(server, is_streamed)
    assert without_ids(body["output"]) == [text_item("")]


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("size", [1, 5, 1000])
async def test_thinking_text_and_calls(start: StartServer, size: int, is_streamed: bool) -> None:
    text = "<think>Hm.</think>\n\nLet me see.\n" + write_call("weather", city="Rome")
    text += "\n" + write_call("time")
    server = await start(speak(*cut(text, size)), dialect=DIALECT)
    body = await ask(server, is_streamed, tools=TOOLS)
    assert without_ids(body["output"]) == [
        thinking_item("Hm."),
        text_item("Let me see."),
        call_item("weather", '{"city": "Rome"}'),
        call_item("time", "{}"),
    ]
    calls = body["output"][2:]
    assert len({call["call_id"] for call in calls}) == 2
    assert all(call["call_id"].startswith("call_") for call in calls)
    assert body["tools"][1] == {**TOOLS[1], "description": None, "strict": False}
    assert body["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    shown = server.renderer.calls[0]["tools"]
    assert [tool["function"]["name"] for tool in shown] == ["weather", "time"]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_thinking_can_be_left_out(start: StartServer, is_streamed: bool) -> None:
    server = await start(speak("<think>Hm.</think>", "Yes."), dialect=Dialect(REASONING_SPEC, None))
    body = await ask(server, is_streamed, include_reasoning=False)
    assert without_ids(body["output"]) == [text_item("Yes.")]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_custom_tool(start: StartServer, is_streamed: bool) -> None:
    server = await start(speak(*cut(write_call("run", input='print("é")'), 3)), dialect=DIALECT)
    tool = {"type": "custom", "name": "run", "description": "Runs Python."}
    body = await ask(server, is_streamed, tools=[tool])
    (item,) = without_ids(body["output"])
    assert item == {"type": "custom_tool_call", "name": "run", "input": 'print("é")'}
    assert body["tools"] == [{**tool, "format": {"type": "text"}}]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_logprobs(start: StartServer, is_streamed: bool) -> None:
    server = await start(speak("Hel", "lo ✓"))
    body = await ask(server, is_streamed, include=["message.output_text.logprobs"], top_logprobs=2)
    logprobs = body["output"][0]["content"][0]["logprobs"]
    assert bytes(b for each in logprobs for b in each["bytes"]).decode() == "Hello ✓"
    assert all(len(each["top_logprobs"]) == 2 for each in logprobs)
    assert body["top_logprobs"] == 2


async def test_failure_before_a_word_keeps_its_status(start: StartServer) -> None:
    server = await start(fail_after(EngineUnavailable("The engine died.")))
    for is_streamed in (False, True):
        reply = await respond(server, stream=is_streamed)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_unavailable")


async def test_failure_in_a_stream_fails_the_response(start: StartServer) -> None:
    server = await start(fail_after(EngineUnavailable("The engine died."), "a", "b"))
    events = read_stream((await respond(server, stream=True)).text)
    last = events[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "The engine died."}
    assert without_ids(last["response"]["output"]) == [text_item("ab", "incomplete")]
    assert rebuild(events) == last["response"]["output"]


async def test_shutdown_fails_a_stream(start: StartServer) -> None:
    server = await start(endless())
    fields = {"model": "toy", "input": "Hi", "stream": True}
    async with server.http.stream("POST", "/v1/responses", json=fields) as reply:
        pieces = reply.aiter_text()
        text = await anext(pieces)
        ending = asyncio.create_task(server.app.ctx.lifecycle.end())
        text += "".join([piece async for piece in pieces])
        await ending
    last = read_stream(text)[-1]
    assert last["type"] == "response.failed"
    assert "shutting down" in last["response"]["error"]["message"]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("script", SCRIPTS)
async def test_stream_is_the_whole_and_says_what_a_chat_says(
    start: StartServer, script: str, size: int
) -> None:
    """Whatever a model writes, well-formed or not."""
    server = await start(speak(*cut(script, size)), dialect=DIALECT)
    whole = await ask(server, False, tools=TOOLS)
    streamed = await ask(server, True, tools=TOOLS)
    assert without_ids(streamed["output"]) == without_ids(whole["output"])
    assert streamed["usage"] == whole["usage"]
    tools = [
        {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
        for tool in TOOLS
    ]
    message = (await server.chat(tools=tools)).json()["choices"][0]["message"]
    assert join(whole["output"], "message") == (message["content"] or "")
    assert join(whole["output"], "reasoning") == message.get("reasoning_content", "")
    calls = [item for item in whole["output"] if item["type"] == "function_call"]
    assert [(call["name"], call["arguments"]) for call in calls] == [
        (call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls", ())
    ]


def join(items: list[dict[str, Any]], kind: str) -> str:
    return "".join(
        part["text"] for item in items if item["type"] == kind for part in item["content"]
    )
