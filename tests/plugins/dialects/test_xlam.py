"""xLAM's dialect, as its template writes it."""

from __future__ import annotations

import pytest

import llmplug_xlam
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

XLAM = PluginDialect(llmplug_xlam, "xlam")
LIST = (
    '[{"name": "get_weather", "arguments": {"city": "Paris"}}, '
    '{"name": "get_time", "arguments": {}}]'
)
CALLS = [Call("get_weather", {"city": "Paris"}), Call("get_time", {})]


def test_calls() -> None:
    assert XLAM.read(LIST) == Answer(calls=CALLS)
    assert XLAM.read(f"I look.<tool_call>{LIST}</tool_call>") == Answer("I look.", calls=CALLS)
    assert XLAM.read(f"I look.[TOOL_CALLS]{LIST}") == Answer("I look.", calls=CALLS)


@pytest.mark.parametrize(
    "text", ["[]", '["Paris"]', '[{"name": "Paris"}]', f"Here: {LIST}", f"```json\n{LIST}\n```"]
)
def test_text_that_is_no_call(text: str) -> None:
    assert XLAM.read(text) == Answer(text)


def test_forced_calls() -> None:
    assert XLAM.allows(LIST)
    assert not XLAM.allows(LIST, most=1)
    assert not XLAM.allows("[]")


def test_properties_of_every_dialect() -> None:
    XLAM.check()
