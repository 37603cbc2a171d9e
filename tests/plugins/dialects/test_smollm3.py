"""SmolLM3's dialect, as its template writes it."""

from __future__ import annotations

import llmplug_smollm3
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

SMOLLM3 = PluginDialect(llmplug_smollm3, "smollm3", "smollm3")

WRITTEN = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CALLS = [Call("get_weather", {"city": "Paris"})]


def test_calls() -> None:
    assert SMOLLM3.read(WRITTEN, "<think>\n\n</think>\n") == Answer(calls=CALLS)
    text = f"<think>\nThey ask.\n</think>\n{WRITTEN}"
    assert SMOLLM3.read(text) == Answer("", "They ask.", CALLS)


def test_forced_calls() -> None:
    assert SMOLLM3.allows(WRITTEN)
    assert not SMOLLM3.allows(WRITTEN.replace('"Paris"', "1"))


def test_properties_of_every_dialect() -> None:
    SMOLLM3.check()
