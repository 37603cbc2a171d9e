"""Calls whose parameters stand in tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from llmplug.dialect import CallSyntax, TaggedCalls, Tool
from llmplug.testing.answers import read

from .call_tables import make_tools

Read = tuple[str, str, bool]  # name, arguments, whether it is complete

LINES = TaggedCalls(
    section=("<calls>", "</calls>"),
    name=("<function=", ">"),
    key=("<parameter=", {">": "schema"}),
    value=("", "</parameter>"),
    end="</function>",
    pad="\n",
)
PAIRS = TaggedCalls(
    name=("<call>", ""),
    key=("<key>", {"</key>": "schema"}),
    value=("<value>", "</value>"),
    end="</call>",
)
FLAGS = TaggedCalls(
    section=("<calls>", "</calls>"),
    name=('<invoke name="', '">'),
    key=('<arg name="', {'" string="true">': "text", '" string="false">': "json"}),
    value=("", "</arg>"),
    end="</invoke>",
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "s": {"type": "string"},
        "n": {"type": "integer"},
        "b": {"type": "boolean"},
        "o": {"type": "object"},
        "e": {"enum": ["1", "2"]},
        "c": {"const": 3},
        "m": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "l": {"type": ["string", "null"]},
        "r": {"$ref": "#/$defs/text"},
        "any": {},
    },
    "$defs": {"text": {"type": "string"}},
}
TOOLS = (Tool("f", SCHEMA), Tool("g"))


def check(table: CallSyntax, text: str, calls: Sequence[Read], content: str = "") -> None:
    """See that a text is read so, whole and character by character."""
    for pieces in ([text], list(text)):
        answer = read(pieces, make_tools(table), callable_tools=TOOLS)
        found = [(call.name, call.arguments, call.is_complete) for call in answer.calls]
        assert found == list(calls)
        assert answer.content == content


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("s", "007", '"007"'),
        ("s", "true", '"true"'),
        ("s", ' two\n"lines" ', '" two\\n\\"lines\\" "'),
        ("s", "", '""'),
        ("s", "<parameter=n>", '"<parameter=n>"'),
        ("n", " 42 ", "42"),
        ("n", "1e5", "1e5"),
        ("n", "NaN", '"NaN"'),
        ("n", "four", '"four"'),
        ("b", "true", "true"),
        ("b", "True", "true"),
        ("b", "yes", '"yes"'),
        ("o", '{"a": [1,\n 2]}', '{"a": [1,\n 2]}'),
        ("o", '{"a": ', '"{\\"a\\": "'),
        ("e", "1", '"1"'),
        ("c", "3", "3"),
        ("m", "42", "42"),
        ("m", "4.5", '"4.5"'),
        ("m", "true", '"true"'),
        ("l", "null", "null"),
        ("l", "None", "null"),
        ("l", "none", '"none"'),
        ("r", "5", '"5"'),
        ("any", "5", "5"),
        ("any", "None", "null"),
        ("any", "so", '"so"'),
        ("unknown", "[1]", "[1]"),
    ],
)
def test_a_value_is_what_its_schema_allows(key: str, text: str, value: str) -> None:
    call = f"<calls><function=f><parameter={key}>\n{text}\n</parameter></function></calls>"
    check(LINES, call, [("f", f'{{"{key}": {value}}}', True)])


def test_flags_say_what_a_value_is() -> None:
    text = (
        '<calls>\n<invoke name="f">\n<arg name="n" string="true">4</arg>\n'
        '<arg name="s" string="false">4</arg>\n<arg name="o" string="false">True</arg>\n'
        "</invoke>\n</calls>"
    )
    check(FLAGS, text, [("f", '{"n": "4", "s": 4, "o": "True"}', True)])


@pytest.mark.parametrize("space", ["", "\n"])
def test_names_without_end_go_up_to_what_comes(space: str) -> None:
    parts = ["<call>f", "<key>s</key>", "<value>x</value>", "</call>", "<call>g", "</call>"]
    check(PAIRS, space.join(parts), [("f", '{"s": "x"}', True), ("g", "{}", True)])


@pytest.mark.parametrize(
    ("text", "calls", "content"),
    [
        ("so\n<calls>\n<function=g>\n</function>\n</calls>\nend", [("g", "{}", True)], "soend"),
        ("<calls></calls>", [], "<calls></calls>"),
        ("<calls> so", [], "<calls> so"),
        ("<calls><function=></function></calls>", [], "<calls><function=></function></calls>"),
        ("<calls><function=g", [], "<calls><function=g"),
        ("<calls><function=g> x</function></calls>y", [("g", "", False)], "x</function>y"),
        (
            "<calls><function=g><parameter=a>1</parameter><parameter=a>2</parameter></calls>",
            [("g", '{"a": 1', False)],
            "<parameter=a>2</parameter>",
        ),
        ("<calls><function=f><parameter=s>\nab", [("f", '{"s": "ab', False)], ""),
        ("<calls><function=f><parameter=n>\n12", [("f", '{"n": 12', False)], ""),
        ("<calls><function=g></function> x </calls>y", [("g", "{}", True)], "xy"),
        ("<calls><function=g></function>", [("g", "{}", True)], ""),
    ],
)
def test_what_goes_wrong_is_text(text: str, calls: list[Read], content: str) -> None:
    check(LINES, text, calls, content)
