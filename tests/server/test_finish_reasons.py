"""Why an answer ended: one table over tool choice, stream, calls and the engine's word."""

from __future__ import annotations

from typing import Any

import pytest

from llmplug.types import FinishReason

from .conftest import StartServer
from .fake_engine import speak
from .test_tools import DIALECT, TOOLS, Checks, ask, cut, write_call

CHOICES: dict[str, Any] = {
    "auto": "auto",
    "required": "required",
    "named": {"type": "function", "function": {"name": "time"}},
}
# Rows: the tool choice. Columns: the engine stopped after 0, 1, 3 whole calls.
STOPPED = {
    "auto": ("stop", "tool_calls", "tool_calls"),
    "required": ("stop", "tool_calls", "tool_calls"),
    "named": ("stop", "stop", "stop"),
}
CUT_OFF = '<tool_call>\n{"name": "time", "arguments": {"city": "Os'


def write_answer(num_calls: int) -> str:
    return "Well.\n" + "\n".join(write_call("time", city=str(i)) for i in range(num_calls))


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("num_calls", [0, 1, 3])
@pytest.mark.parametrize("engine_reason", [FinishReason.STOP, FinishReason.LENGTH])
async def test_table(
    start: StartServer,
    choice: str,
    is_streamed: bool,
    num_calls: int,
    engine_reason: FinishReason,
) -> None:
    text = write_answer(num_calls)
    server = await start(
        speak(*cut(text, 9), finish=engine_reason), dialect=DIALECT, grammars=Checks()
    )
    found = await ask(server, is_streamed, tools=TOOLS, tool_choice=CHOICES[choice])
    column = [0, 1, 3].index(num_calls)
    is_cut_off = engine_reason is FinishReason.LENGTH
    assert found["finish_reason"] == ("length" if is_cut_off else STOPPED[choice][column])
    assert len(found["message"].get("tool_calls", ())) == num_calls


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(
    ("num_calls", "engine_reason", "reason"),
    [
        # What counts is a whole call, and whether the answer was cut off.
        (0, FinishReason.LENGTH, "length"),
        (1, FinishReason.LENGTH, "length"),
        (0, FinishReason.STOP, "stop"),
        (1, FinishReason.STOP, "tool_calls"),
    ],
)
async def test_call_that_breaks_off(
    start: StartServer,
    is_streamed: bool,
    num_calls: int,
    engine_reason: FinishReason,
    reason: str,
) -> None:
    text = write_answer(num_calls) + "\n" + CUT_OFF
    server = await start(speak(*cut(text, 9), finish=engine_reason), dialect=DIALECT)
    found = await ask(server, is_streamed, tools=TOOLS)
    assert found["finish_reason"] == reason
    calls = found["message"]["tool_calls"]
    assert len(calls) == num_calls + 1
    assert calls[-1]["function"]["arguments"] == '{"city": "Os'


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(
    ("stop", "reason", "num_calls"),
    [("and so", "tool_calls", 1), ("arguments", "stop", 0), ("Well", "stop", 0)],
)
async def test_stop_string(
    start: StartServer, is_streamed: bool, stop: str, reason: str, num_calls: int
) -> None:
    text = write_answer(1) + "\nand so on"
    server = await start(speak(*cut(text, 4)), dialect=DIALECT)
    found = await ask(server, is_streamed, tools=TOOLS, stop=stop)
    assert found["finish_reason"] == reason
    whole = [
        call
        for call in found["message"].get("tool_calls", ())
        if call["function"]["arguments"].endswith("}")
    ]
    assert len(whole) == num_calls


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_no_tools_no_calls(start: StartServer, is_streamed: bool) -> None:
    server = await start(speak(*cut(write_answer(1), 4)), dialect=DIALECT)
    found = await ask(server, is_streamed)
    assert found["finish_reason"] == "stop"
    assert found["message"]["content"] == write_answer(1)
