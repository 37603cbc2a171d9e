"""Jamba's dialect, as its template writes it."""

from __future__ import annotations

import llmplug_jamba
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

JAMBA = PluginDialect(llmplug_jamba, "jamba")

WRITTEN = """\
<tool_calls>[
{"name": "get_weather", "arguments": {"city": "Paris"}},
{"name": "get_time", "arguments": {}}
]</tool_calls>"""
CALLS = [Call("get_weather", {"city": "Paris"}), Call("get_time", {})]


def test_calls() -> None:
    assert JAMBA.read(f" {WRITTEN}") == Answer(calls=CALLS)
    assert JAMBA.read(f" I look.{WRITTEN}").calls == CALLS


def test_forced_calls() -> None:
    one = '<tool_calls>[{"name": "get_time", "arguments": {}}]</tool_calls>'
    assert JAMBA.allows(one)
    assert not JAMBA.allows(one.replace("{}", '{"city"}'))


def test_properties_of_every_dialect() -> None:
    JAMBA.check()
