"""No bundled dialect takes long, calls and thinking together, wherever in a call garbage begins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmplug import ReasoningParserSpec, ToolParserSpec
from llmplug.testing.reading_speed import check_speed
from tests.plugins.dialects.bundled import PLUGINS


def pairs() -> Iterator[tuple[ToolParserSpec, ReasoningParserSpec | None]]:
    """Each parser of calls with the thinking of its name, else with the first of its plugin."""
    for plugin in PLUGINS:
        thinking: list[ReasoningParserSpec] = getattr(plugin, "llmplug_reasoning_parsers", list)()
        for tools in getattr(plugin, "llmplug_tool_parsers", list)():
            own = [each for each in thinking if each.name == tools.name]
            yield tools, next(iter(own + thinking), None)


@pytest.mark.parametrize(
    ("tools", "thinking"), [pytest.param(*each, id=each[0].name) for each in pairs()]
)
def test_no_text_takes_long(tools: ToolParserSpec, thinking: ReasoningParserSpec | None) -> None:
    check_speed(tools, thinking, num_chars=10_000)
