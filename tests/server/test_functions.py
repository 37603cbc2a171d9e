"""`functions` and `function_call`: what OpenAI deprecated, and clients still send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from .conftest import Running, StartServer
from .fake_engine import speak
from .test_tools import DIALECT, TOOLS, cut, write_call

FUNCTIONS: list[Any] = [tool["function"] for tool in TOOLS]
USER = {"role": "user", "content": "Hi"}
SCRIPT = "Sure." + write_call("time", city="Rome") + write_call("weather", city="Rome")


@pytest.fixture
async def server(start: StartServer) -> Running:
    return await start(speak(*cut(SCRIPT, 4)), dialect=DIALECT)


@pytest.fixture
async def client(server: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10
    ) as client:
        yield client


async def test_official_client_reads_the_call_of_a_function(
    client: openai.AsyncOpenAI, server: Running
) -> None:
    messages: list[Any] = [USER]
    whole = await client.chat.completions.create(
        model="toy", messages=messages, functions=FUNCTIONS, function_call="auto"
    )
    (choice,) = whole.choices
    assert choice.finish_reason == "function_call"
    call = choice.message.function_call
    assert call is not None
    assert (call.name, call.arguments) == ("time", '{"city": "Rome"}')
    assert choice.message.content == "Sure."
    assert choice.message.tool_calls is None

    stream = await client.chat.completions.create(
        model="toy", messages=messages, functions=FUNCTIONS, stream=True
    )
    pieces, content, reasons = [], "", []
    async for chunk in stream:
        (part,) = chunk.choices
        assert part.delta.tool_calls is None
        content += part.delta.content or ""
        if part.delta.function_call is not None:
            pieces.append(part.delta.function_call)
        if part.finish_reason is not None:
            reasons.append(part.finish_reason)
    assert [piece.name for piece in pieces] == ["time"] + [None] * (len(pieces) - 1)
    assert "".join(piece.arguments or "" for piece in pieces) == call.arguments
    assert (content, reasons) == ("Sure.", ["function_call"])
    assert server.renderer.calls[0]["tools"] == server.renderer.calls[1]["tools"]
    assert [tool["function"]["name"] for tool in server.renderer.calls[0]["tools"]] == [
        "weather",
        "time",
    ]


async def test_none_reads_no_calls(start: StartServer) -> None:
    server = await start(speak(*cut(SCRIPT, 4)), dialect=DIALECT)
    reply = (await server.chat(functions=FUNCTIONS, function_call="none")).json()["choices"][0]
    assert reply["message"]["content"] == SCRIPT
    assert "function_call" not in reply["message"]
    assert reply["finish_reason"] == "stop"


async def test_tools_are_answered_as_tools_beside_a_choice_of_none(start: StartServer) -> None:
    server = await start(speak(*cut(SCRIPT, 4)), dialect=DIALECT)
    reply = (await server.chat(tools=TOOLS, function_call="none")).json()["choices"][0]
    assert len(reply["message"]["tool_calls"]) == 2
    assert reply["finish_reason"] == "tool_calls"


async def test_history_with_functions_reaches_the_template_as_tools(start: StartServer) -> None:
    server = await start(speak("Noon."), dialect=DIALECT)
    call = {"name": "time", "arguments": '{"city": "Rome"}'}
    history = [
        USER,
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "time", "content": "noon"},
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "time", "content": None},
    ]
    response = await server.chat(messages=history, functions=FUNCTIONS)
    assert response.status_code == 200
    assert "X-Llmplug-Ignored" not in response.headers
    messages = server.renderer.calls[0]["messages"]
    asked, told, asked_again, told_again = messages[1:]
    assert asked["tool_calls"][0]["function"] == call
    for question, answer in ((asked, told), (asked_again, told_again)):
        assert question["tool_calls"][0]["id"] == answer["tool_call_id"]
    assert asked["tool_calls"][0]["id"] != asked_again["tool_calls"][0]["id"]
    assert [told["role"], told["content"], told_again["content"]] == ["tool", "noon", ""]


CALLED = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"functions": {}}, "functions", "invalid_type"),
    ({"functions": ["f"]}, "functions[0]", "invalid_type"),
    ({"functions": [{"name": "f x"}]}, "functions[0].name", "invalid_value"),
    ({"functions": [{"name": "f", "parameters": 5}]}, "functions[0].parameters", "invalid_type"),
    ({"functions": [{"name": "f"}] * 2}, "functions[1].name", "invalid_value"),
    ({"functions": [{"name": f"f{i}"} for i in range(129)]}, "functions", "invalid_value"),
    ({"function_call": "auto"}, "function_call", "invalid_value"),
    ({"function_call": {"name": "f"}}, "function_call", "invalid_value"),
    ({"functions": FUNCTIONS, "function_call": "required"}, "function_call", "invalid_value"),
    ({"functions": FUNCTIONS, "function_call": {}}, "function_call", "invalid_value"),
    (
        {"functions": FUNCTIONS, "function_call": {"name": "f"}},
        "function_call.name",
        "invalid_value",
    ),
    ({"functions": FUNCTIONS, "tools": TOOLS}, "functions", "invalid_value"),
    ({"functions": FUNCTIONS, "tool_choice": "auto"}, "functions", "invalid_value"),
    ({"functions": FUNCTIONS, "parallel_tool_calls": True}, "functions", "invalid_value"),
    # Without a grammar nobody can be made to call.
    (
        {"functions": FUNCTIONS, "function_call": {"name": "time"}},
        "function_call",
        "unsupported_parameter",
    ),
    (
        {"messages": [USER, {"role": "function", "name": "f", "content": "a"}]},
        "messages[1].name",
        "invalid_value",
    ),
    (
        {"messages": [USER, CALLED, {"role": "function", "content": "a"}]},
        "messages[2].name",
        "missing_required_parameter",
    ),
    (
        {"messages": [{**USER, "function_call": {"name": "f"}}]},
        "messages[0].function_call",
        "invalid_value",
    ),
    (
        {"messages": [{**CALLED, "function_call": {"arguments": "{}"}}]},
        "messages[0].function_call.name",
        "missing_required_parameter",
    ),
    (
        {"messages": [{**CALLED, "function_call": "f"}]},
        "messages[0].function_call",
        "invalid_type",
    ),
    (
        {
            "messages": [
                {
                    **CALLED,
                    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f"}}],
                }
            ]
        },
        "messages[0].function_call",
        "invalid_value",
    ),
]


@pytest.mark.parametrize(("fields", "param", "code"), BAD)
async def test_what_is_malformed_is_refused(
    start: StartServer, fields: dict[str, Any], param: str, code: str
) -> None:
    server = await start(dialect=DIALECT)
    response = await server.chat(**fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert f"'{param}" in error["message"]
