"""Nemotron's dialect, as its templates write it."""

from __future__ import annotations

import llmplug_nemotron
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

NEMOTRON = PluginDialect(llmplug_nemotron, "nemotron", "nemotron")

CALLS = (
    '<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}, '
    '{"name": "get_time", "arguments": {}}]</TOOLCALL>'
)
READ = [Call("get_weather", {"city": "Paris", "days": 2}), Call("get_time", {})]


def test_calls() -> None:
    text = f"They ask.\n</think>\n\nI look.\n\n{CALLS}"
    assert NEMOTRON.read(text, "<SPECIAL_11>Assistant\n<think>\n\n") == Answer(
        "I look.", "They ask.", READ
    )
    assert NEMOTRON.read(CALLS, "<SPECIAL_11>Assistant\n<think></think>") == Answer(calls=READ)


def test_forced_calls() -> None:
    assert NEMOTRON.allows(CALLS)
    assert not NEMOTRON.allows(CALLS, most=1)
    assert not NEMOTRON.allows(CALLS.replace("2", '"two"'))


def test_properties_of_every_dialect() -> None:
    NEMOTRON.check()
