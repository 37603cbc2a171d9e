"""The dialect for models that know none."""

from __future__ import annotations

import llmplug_generic
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

GENERIC = PluginDialect(llmplug_generic, "generic")
WRITTEN = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'


def test_calls() -> None:
    expected = Answer("I look.", calls=[Call("get_weather", {"city": "Paris"})])
    assert GENERIC.read(f"I look.\n{WRITTEN}") == expected


def test_forced_calls() -> None:
    assert GENERIC.allows(WRITTEN)
    assert not GENERIC.allows(WRITTEN.replace('"Paris"', "null"))


def test_fits_everything_a_little() -> None:
    for template in ("", "<tool_call> arguments", "{{ messages }}"):
        assert 0 < GENERIC.tools.detect(template, {}, frozenset()).score < 0.1


def test_properties_of_every_dialect() -> None:
    GENERIC.check()
