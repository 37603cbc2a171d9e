"""Apertus' dialect, as its template writes it."""

from __future__ import annotations

import llmplug_apertus
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

APERTUS = PluginDialect(llmplug_apertus, "apertus", "apertus")

WRITTEN = '<|tools_prefix|>[{"get_weather": {"city": "Paris"}}, {"get_time": {}}]<|tools_suffix|>'
CALLS = [Call("get_weather", {"city": "Paris"}), Call("get_time", {})]


def test_calls() -> None:
    assert APERTUS.read(f"I look.{WRITTEN}") == Answer("I look.", calls=CALLS)


def test_thinking() -> None:
    text = "<|inner_prefix|>They greet.<|inner_suffix|>Hello!"
    assert APERTUS.read(text) == Answer("Hello!", "They greet.")
    text = f"<|inner_prefix|>They ask.{WRITTEN}"
    assert APERTUS.read(text) == Answer("", "They ask.", CALLS)


def test_forced_calls() -> None:
    assert APERTUS.allows(WRITTEN)
    assert not APERTUS.allows(WRITTEN, most=1)
    assert not APERTUS.allows(WRITTEN.replace("get_time", "get_date"))


def test_properties_of_every_dialect() -> None:
    APERTUS.check()
