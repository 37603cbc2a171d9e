"""Tools over HTTP: what a scripted model writes as calls comes out as calls, streamed and whole."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from llmplug.chat.channels import Dialect
from llmplug.dialect import (
    CallEnd,
    CallStart,
    Content,
    Event,
    JsonCalls,
    ReasoningSyntax,
    in_template,
)
from llmplug.errors import GrammarError
from llmplug.grammar import Node, encode_grammar
from llmplug.specs import ReasoningParserSpec, ToolParserSpec

from .conftest import Running, StartServer
from .fake_engine import speak
from .sse_reader import read_events

CALLS = JsonCalls(start=("<tool_call>",), end="</tool_call>")
TOOLS_SPEC = ToolParserSpec(name="toy", detect=in_template("x"), syntax=(CALLS,))
REASONING_SPEC = ReasoningParserSpec(
    name="toy",
    detect=in_template("x"),
    syntax=ReasoningSyntax(start=("<think>",), end="</think>", ended_by=("<tool_call>",)),
)
DIALECT = Dialect(REASONING_SPEC, TOOLS_SPEC)


def make_tool(name: str, **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    function = {"name": name, "description": f"Does {name}.", "parameters": parameters, **more}
    return {"type": "function", "function": function}


TOOLS: list[Any] = [make_tool("weather"), make_tool("time")]


def allow(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def write_call(name: str, **arguments: Any) -> str:
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def cut(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


async def ask(server: Running, is_streamed: bool, **fields: Any) -> dict[str, Any]:
    """The first choice, put together from chunks if it is streamed, as a whole reply has it."""
    response = await server.chat(stream=is_streamed, **fields)
    if not is_streamed:
        body = response.json()
        ChatCompletion.model_validate(body, strict=True)
        choice: dict[str, Any] = body["choices"][0]
        return choice
    message: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
    reasons = []
    calls: dict[int, dict[str, Any]] = {}
    for event in read_events(response):
        for choice in event["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            for name in ("reasoning_content", "reasoning"):
                if name in delta:
                    message[name] = message.get(name, "") + delta[name]
            for call in delta.get("tool_calls", ()):
                index = call.pop("index")
                if index not in calls:
                    assert index == len(calls)
                    assert call["function"]["arguments"] == ""
                    calls[index] = call
                else:
                    assert call.keys() == {"function"}
                    calls[index]["function"]["arguments"] += call["function"]["arguments"]
            if choice["finish_reason"]:
                reasons.append(choice["finish_reason"])
    if calls:
        message["tool_calls"] = list(calls.values())
        message["content"] = message["content"] or None
    assert len(reasons) == 1
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": reasons[0]}


def without_ids(choice: dict[str, Any]) -> dict[str, Any]:
    for call in choice["message"].get("tool_calls", ()):
        assert call.pop("id").startswith("call_")
    return choice


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_call_comes_out_as_a_call(start: StartServer, size: int, is_streamed: bool) -> None:
    text = "Let me see.\n" + write_call("weather", city='Zürich </tool_call> "x"')
    server = await start(speak(*cut(text, size)), dialect=DIALECT)
    choice = await ask(server, is_streamed, tools=TOOLS)
    assert without_ids(choice) == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": "Let me see.",
            "refusal": None,
            "tool_calls": [
                {
                    "type": "function",
                    "function": {
                        "name": "weather",
                        "arguments": '{"city": "Zürich </tool_call> \\"x\\""}',
                    },
                }
            ],
        },
        "logprobs": None,
        "finish_reason": "tool_calls",
    }


SCRIPTS = [
    write_call("weather", city="Rome"),
    write_call("weather") + "\n" + write_call("time", city="Oslo", hours=[1, 2.5, None]),
    "<think>Hm, <b>.</think>\n\nSure.\n" + write_call("time") + "\nand\n" + write_call("weather"),
    "no call, but <tool_call without end",
    'cut off <tool_call>\n{"name": "time", "arguments": {"city": "Os',
    '<tool_call>{"name": "time", "arguments": {"city": nonsense}}</tool_call> and on',
    "<think>never ends",
]


@pytest.mark.parametrize("text", SCRIPTS)
async def test_streamed_equals_whole_however_it_is_cut(start: StartServer, text: str) -> None:
    server = await start(dialect=DIALECT)
    choices = []
    for size in (1, 2, 7, 1000):
        server.engine.script = speak(*cut(text, size))
        for is_streamed in (False, True):
            choices.append(without_ids(await ask(server, is_streamed, tools=TOOLS)))
    assert all(choice == choices[0] for choice in choices)


@pytest.fixture
async def server(start: StartServer) -> Running:
    return await start(speak(*cut(SCRIPTS[2], 4)), dialect=DIALECT)


@pytest.fixture
async def client(server: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10
    ) as client:
        yield client


async def test_official_client_reads_calls(client: openai.AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Hi"}]
    reply = await client.chat.completions.create(model="toy", messages=messages, tools=TOOLS)
    async with client.chat.completions.stream(
        model="toy", messages=messages, tools=TOOLS
    ) as stream:
        kinds = {event.type async for event in stream}
        streamed = await stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    for choice in (reply.choices[0], streamed.choices[0]):
        calls = choice.message.tool_calls
        assert calls is not None
        assert [(c.type, c.function.name) for c in calls] == [
            ("function", "time"),
            ("function", "weather"),
        ]
        assert len({c.id for c in calls}) == 2
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "Sure.and"
        assert choice.message.model_extra["reasoning"] == "Hm, <b>."  # type: ignore[index]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_single_call_ends_the_answer_at_the_second(
    start: StartServer, is_streamed: bool
) -> None:
    text = "One. " + write_call("time") + "Two. " + write_call("weather") + "Three."
    server = await start(speak(*text), dialect=DIALECT)
    fields: dict[str, Any] = {"tools": TOOLS, "parallel_tool_calls": False}
    choice = await ask(server, is_streamed, **fields)
    assert [c["function"]["name"] for c in choice["message"]["tool_calls"]] == ["time"]
    assert choice["message"]["content"] == "One.Two."
    assert choice["finish_reason"] == "tool_calls"
    assert server.engine.num_open == 0
    body = (await server.chat(n=2, **fields)).json()
    assert [len(c["message"]["tool_calls"]) for c in body["choices"]] == [1, 1]
    assert body["usage"]["completion_tokens"] < 2 * len(text)
    # The first answer is ended alone; with the second the whole request is.
    assert server.engine.aborted == [(server.engine.requests[-1].request_id, 0)]


async def test_none_renders_the_tools_and_reads_no_calls(start: StartServer) -> None:
    text = write_call("time")
    server = await start(speak(*cut(text, 5)), dialect=Dialect(None, TOOLS_SPEC))
    choice = await ask(server, False, tools=TOOLS, tool_choice="none")
    assert choice["message"]["content"] == text
    assert choice["finish_reason"] == "stop"
    assert [t["function"]["name"] for t in server.renderer.calls[0]["tools"]] == ["weather", "time"]


async def test_tools_reach_the_template_without_what_is_ours(start: StartServer) -> None:
    server = await start(dialect=DIALECT)
    bare = {"type": "function", "function": {"name": "now", "strict": None, "parameters": None}}
    await server.chat(tools=[TOOLS[0], bare], tool_choice="none")
    assert server.renderer.calls[0]["tools"] == [
        TOOLS[0],
        {
            "type": "function",
            "function": {"name": "now", "parameters": {"type": "object", "properties": {}}},
        },
    ]


class Failing:
    """Raises when it meets an exclamation mark, or at the end."""

    def __init__(self, fails_at_end: bool = False) -> None:
        self._fails_at_end = fails_at_end

    def feed(self, text: str) -> list[Event]:
        if "!" in text:
            raise RuntimeError("a bug")
        return [Content(text.upper())]

    def finish(self) -> list[Event]:
        if self._fails_at_end:
            raise RuntimeError("another bug")
        return []


class Careless:
    """Forgets to return what it found."""

    def feed(self, text: str) -> None:
        pass

    def finish(self) -> list[Event]:
        return []


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_parser_that_raises_costs_its_answer_the_calls(
    start: StartServer, is_streamed: bool
) -> None:
    for make, shown in (
        (lambda _: Failing(), "AB!cd"),
        (lambda _: Failing(fails_at_end=True), "AB"),
        (lambda _: 1 / 0, "ab!cd"),
        (lambda _: Careless(), "ab!cd"),
    ):
        spec = ToolParserSpec(name="bad", detect=in_template("x"), make=make)  # type: ignore[arg-type]
        text = "ab" if shown == "AB" else "ab!cd"
        server = await start(speak(*text), dialect=Dialect(None, spec))
        choice = await ask(server, is_streamed, tools=TOOLS)
        assert choice["message"]["content"] == shown
        assert choice["finish_reason"] == "stop"
        assert (await server.metric("llmplug_parser_failures_total")).endswith(" 1.0")


async def test_ids_of_calls(start: StartServer) -> None:
    """The model's own, its dialect's, or random ones; never one twice."""

    class Scripted:
        def feed(self, text: str) -> list[Event]:
            del text
            return [
                event
                for i, call_id in enumerate(("own", None, "own"))
                for event in (CallStart(i, "time", call_id), CallEnd(i, is_complete=True))
            ]

        def finish(self) -> list[Event]:
            return []

    def fail(name: str, index: int) -> str:
        raise ValueError(name, index)

    for make_id, second in (
        (lambda name, index: f"{name}-{index}", "time-1"),
        (lambda name, index: "own", None),
        (fail, None),
        (None, None),
    ):
        spec = ToolParserSpec(
            name="toy", detect=in_template("x"), make=lambda _: Scripted(), make_id=make_id
        )
        server = await start(speak("x"), dialect=Dialect(None, spec))
        calls = (await ask(server, False, tools=TOOLS))["message"]["tool_calls"]
        ids = [call["id"] for call in calls]
        assert len(set(ids)) == 3
        assert ids[0] == "own"
        assert second is None or ids[1] == second
        for made in ids[2:] if second else ids[1:]:
            assert re.fullmatch(r"call_[a-zA-Z0-9]{24}", made)


class Checks:
    """Remembers what it is to check, and refuses what holds a word."""

    def __init__(self, bad: str = "never") -> None:
        self.params: list[str] = []
        self._bad = bad.encode()

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def check(self, node: Node, param: str) -> None:
        self.params.append(param)
        if self._bad in encode_grammar(node):
            raise GrammarError("too hard", param=param)
