"""Calls and their results in the conversation of a request."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import StartServer
from .fake_engine import speak
from .test_tool_requests import nest
from .test_tools import DIALECT, SCRIPTS, TOOLS, ask, cut

CALL = {"id": "c1", "type": "function", "function": {"name": "time", "arguments": '{"city": "x"}'}}
HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": None, "reasoning": "Hm.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "noon"}]},
    {"role": "assistant", "content": "Noon.", "reasoning_content": "So.", "tool_calls": []},
    {"role": "user", "content": "Thanks"},
]


async def test_history_with_tools_reaches_the_template(start: StartServer) -> None:
    server = await start(dialect=DIALECT)
    response = await server.chat(messages=HISTORY)
    assert response.status_code == 200
    assert "X-Llmplug-Ignored" not in response.headers
    assert server.renderer.calls[0]["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "reasoning_content": "Hm.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "noon"}]},
        {"role": "assistant", "content": "Noon.", "reasoning_content": "So."},
        {"role": "user", "content": "Thanks"},
    ]


async def test_reply_goes_back_as_it_came(start: StartServer) -> None:
    """What a client appends to its history is understood, whatever names it holds."""
    server = await start(speak(*cut(SCRIPTS[2], 4)), dialect=DIALECT)
    reply = (await ask(server, False, tools=TOOLS))["message"]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "ok"}
        for call in reply["tool_calls"]
    ]
    response = await server.chat(messages=[HISTORY[0], reply, *results], tools=TOOLS)
    assert response.status_code == 200
    assert "X-Llmplug-Ignored" not in response.headers
    message = server.renderer.calls[1]["messages"][1]
    assert message == {
        "role": "assistant",
        "content": "Sure.and",
        "reasoning_content": "Hm, <b>.",
        "tool_calls": reply["tool_calls"],
    }


def change(number: int, **changes: Any) -> list[dict[str, Any]]:
    return [{**each, **changes} if i == number else each for i, each in enumerate(HISTORY)]


BAD_HISTORIES: list[tuple[list[dict[str, Any]], str, str]] = [
    (change(2, tool_call_id="c2"), "messages[2].tool_call_id", "invalid_value"),
    (change(2, tool_call_id=None), "messages[2].tool_call_id", "missing_required_parameter"),
    (change(2, tool_call_id=1), "messages[2].tool_call_id", "invalid_type"),
    (change(2, content=None), "messages[2].content", "missing_required_parameter"),
    (change(3, tool_call_id="c1"), "messages[3].tool_call_id", "invalid_value"),
    (change(0, tool_calls=[CALL]), "messages[0].tool_calls", "invalid_value"),
    (change(1, tool_calls=CALL), "messages[1].tool_calls", "invalid_type"),
    (change(1, tool_calls=["c1"]), "messages[1].tool_calls[0]", "invalid_type"),
    (
        change(1, tool_calls=[{**CALL, "type": "custom"}]),
        "messages[1].tool_calls[0].type",
        "unsupported_parameter",
    ),
    (
        change(1, tool_calls=[{**CALL, "function": {"arguments": "{}"}}]),
        "messages[1].tool_calls[0].function.name",
        "missing_required_parameter",
    ),
    (
        change(1, tool_calls=[{**CALL, "function": {"name": "f", "arguments": 5}}]),
        "messages[1].tool_calls[0].function.arguments",
        "invalid_type",
    ),
    (
        change(1, tool_calls=[{**CALL, "function": {"name": "f", "arguments": nest(400)}}]),
        "messages[1].tool_calls[0].function.arguments",
        "invalid_value",
    ),
    (change(1, reasoning=["Hm."]), "messages[1].reasoning", "invalid_type"),
]


@pytest.mark.parametrize(("messages", "param", "code"), BAD_HISTORIES)
async def test_malformed_histories_are_refused(
    start: StartServer, messages: list[dict[str, Any]], param: str, code: str
) -> None:
    server = await start(dialect=DIALECT)
    response = await server.chat(messages=messages)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    if param == "messages[2].tool_call_id" and code == "invalid_value":
        assert "'c2'" in error["message"]
