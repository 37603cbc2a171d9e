"""Texts that models write, as hypothesis strategies: content, calls, and their markers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from llmplug.testing.answers import TOOLS
from llmplug.testing.call_writing import Call

if TYPE_CHECKING:
    from llmplug.dialect import CallSyntax
    from llmplug.specs import ReasoningParserSpec, ToolParserSpec

NASTY = [
    '"', "\\", "\\n", "\n", "{", "}", "[", "]", "<", ">", "'", ",", ":", "é", "✓", "🎉", "\u2028",
    "```",
]  # fmt: skip
GARBAGE = [
    " ", "\n", "so", "1", "-", "true", '{"name": "f"', '{"name": "f", "arguments": {"a": 1}}',
    '"arguments": {', '"parameters": ', "get_time", "f", "(x=1)", "```json\n", '[{"name": "find", ',
    "=", ";",
]  # fmt: skip
# Fields of tables that are no markers.
_WORDS = {"holds", "name_key", "arguments_key", "name_pattern", "name_format", "pad"}


# --- markers ------------------------------------------------------------------------------------
def call_markers(tools: ToolParserSpec | None) -> list[str]:
    """Return every text of the tables that stands round values."""
    return [] if tools is None else [m for table in tools.syntax for m in _texts_in(table)]


def _texts_in(table: CallSyntax) -> Iterator[str]:
    for name in table.__dataclass_fields__:
        if name not in _WORDS:
            yield from (each.strip() for each in _flatten(getattr(table, name)) if each.strip())


def _flatten(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from value
    elif isinstance(value, tuple):
        for each in value:
            yield from _flatten(each)


def thinking_markers(reasoning: ReasoningParserSpec | None) -> list[str]:
    """Return the markers round thinking, and those round answers."""
    if reasoning is None or reasoning.syntax is None:
        return []
    syntax = reasoning.syntax
    around = (*(syntax.answer or ()), *syntax.dropped)
    return [marker.strip() for marker in (*syntax.start, syntax.end, *around)]


# --- strategies ---------------------------------------------------------------------------------
def plain_texts(markers: Sequence[str]) -> st.SearchStrategy[str]:
    """Return texts that are no marker but may look like the beginning of one."""
    begun = [marker[:-1] + "." for marker in markers if len(marker) > 1]
    words = st.sampled_from(["Hello", " ", "\n", "wörld", "a < b", "✓", "f(x)", "{", "]", *begun])
    texts = st.lists(words, max_size=6).map(lambda parts: "so " + "".join(parts) + " ok.")
    return texts.filter(lambda text: not any(marker in text for marker in markers))


def garbage_texts(markers: Sequence[str]) -> st.SearchStrategy[str]:
    """Return markers whole and broken, in any order, among what stands between them."""
    broken = [marker[:-1] for marker in markers]
    parts = st.sampled_from([*markers, *markers, *broken, *NASTY, *GARBAGE])
    return st.lists(parts, max_size=14).map("".join)


def call_lists(markers: Sequence[str], *, has_escapes: bool) -> st.SearchStrategy[list[Call]]:
    """Return calls of `TOOLS`; strings that cannot be escaped hold no marker."""
    pieces = st.sampled_from([*NASTY, "a", " ", "007", "true", *(markers if has_escapes else ())])
    strings = st.lists(pieces, max_size=5).map("".join)
    if not has_escapes:  # nor what becomes one together with what follows
        strings = strings.map(lambda text: f"x{text}x")
        strings = strings.filter(lambda text: not any(marker in text for marker in markers))
    names = st.sampled_from([tool.name for tool in TOOLS])
    styles = st.sampled_from([(", ", ": "), (",", ":"), (" ,\n", " : ")])
    one = st.builds(Call, names, _arguments(strings), styles, st.booleans())
    return st.lists(one, min_size=1, max_size=3)


def _arguments(strings: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Return arguments that fit the parameters of `TOOLS`."""
    return st.fixed_dictionaries(
        {"text": strings},
        optional={
            "count": st.integers(-(10**20), 10**20),
            "is_on": st.booleans(),
            "items": st.lists(strings, max_size=3),
            "more": st.fixed_dictionaries({}, optional={"deep": strings}),
        },
    )
