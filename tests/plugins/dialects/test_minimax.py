"""MiniMax M2's dialect, as its template writes it."""

from __future__ import annotations

import llmplug_minimax
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

MINIMAX = PluginDialect(llmplug_minimax, "minimax_m2", "minimax_m2")
PROMPT_END = "]~b]ai\n<think>\n"

CALLS = """\
<minimax:tool_call>
<invoke name="get_weather">
<parameter name="city">12</parameter>
<parameter name="is_metric">true</parameter>
<parameter name="place">{"lat": 48.9}</parameter>
</invoke>
<invoke name="get_time">
</invoke>
</minimax:tool_call>"""
READ = [
    Call("get_weather", {"city": "12", "is_metric": True, "place": {"lat": 48.9}}),
    Call("get_time", {}),
]


def test_calls() -> None:
    text = f"They ask.\n</think>\n\nI look.\n{CALLS}"
    assert MINIMAX.read(text, PROMPT_END) == Answer("I look.", "They ask.", READ)
    assert MINIMAX.read(f"They ask.\n{CALLS}", PROMPT_END) == Answer("", "They ask.", READ)


def test_call_that_breaks_off() -> None:
    (call,) = MINIMAX.read(CALLS[: CALLS.index("12") + 1]).calls
    assert call == Call("get_weather", '{"city": "1', is_complete=False)


def test_forced_calls() -> None:
    assert MINIMAX.allows(CALLS)
    assert not MINIMAX.allows(CALLS, most=1)
    assert not MINIMAX.allows(CALLS.replace('"city">12<', '"town">12<'))
    assert not MINIMAX.allows(CALLS.replace(">true<", ">maybe<"))


def test_properties_of_every_dialect() -> None:
    MINIMAX.check()
