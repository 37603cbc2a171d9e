"""Calls that are written parameter by parameter: their grammars, and what every table promises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from llmplug import GrammarError
from llmplug.chat.call_grammar import build_call_grammar
from llmplug.dialect import BraceCalls, CallSyntax, PythonCalls, TaggedCalls, Tool
from llmplug.grammar import Node
from llmplug.testing.answers import read
from llmplug.testing.call_writing import Call, write_calls
from llmplug.testing.dialect_properties import check_dialect
from llmplug.testing.grammar_texts import texts_of
from llmplug.testing.reading_speed import check_speed

from .call_tables import make_tools
from .test_call_grammar import allows

# Markers are as long as the shortest of any family: the time that they take is measured below.
LINES = TaggedCalls(
    section=("<all_calls>\n", "\n</all_calls>"),
    name=("<function=", ">"),
    key=("<parameter=", {">": "schema"}),
    value=("", "</parameter>"),
    end="</function>",
    pad="\n",
)
PAIRS = TaggedCalls(
    name=("<tool_call>", ""),
    key=("<key>", {"</key>": "schema"}),
    value=("<value>", "</value>"),
    end="</tool_call>",
)
FLAGS = TaggedCalls(
    section=("<all_calls>", "</all_calls>"),
    name=('<invoke name="', '">'),
    key=('<arg name="', {'" string="true">': "text", '" string="false">': "json"}),
    value=("", "</arg>"),
    end="</invoke>",
    is_single=True,
)
LIST = PythonCalls(start=("<all_calls>",), end="</all_calls>")
ROWS = PythonCalls(start=("<all_calls>\n",), end="\n</all_calls>", is_list=False)
BARE = PythonCalls(start=(), is_bare=True)
BRACES = BraceCalls(start="<call>call:", quote="<q>", end="</call>")

TABLES: dict[str, CallSyntax] = {
    "tags in lines": LINES,
    "keys and values in pairs": PAIRS,
    "tags with flags": FLAGS,
    "a list of Python": LIST,
    "rows of Python": ROWS,
    "a bare list of Python": BARE,
    "braces": BRACES,
}
EACH = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)


@EACH
def test_what_dialects_promise_is_kept(table: CallSyntax) -> None:
    check_dialect(make_tools(table), num_examples=40)


@pytest.mark.slow
@EACH
def test_time_is_linear(table: CallSyntax) -> None:
    check_speed(make_tools(table))


# --- grammars -----------------------------------------------------------------------------------
def grammar(table: CallSyntax, parameters: dict[str, Any]) -> Node:
    """The grammar of one call of a tool."""
    return build_call_grammar(make_tools(table), [Tool("f", parameters)], least=1, most=1)


def object_of(members: dict[str, Any], *required: str) -> dict[str, Any]:
    """A schema of an object."""
    return {"type": "object", "properties": members, "required": list(required)}


TEXT: dict[str, Any] = {"type": "string"}
NULLABLE = {"anyOf": [TEXT, {"type": "null"}]}
SCHEMAS: list[tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]] = [
    (
        object_of({"a": TEXT, "n": {"type": "integer", "minimum": 3}}, "n"),
        [{"n": 3}, {"n": 12}],
        [{"a": "x"}, {"n": 2}, {"n": "x"}, {}, {"n": 3, "other": 1}],
    ),
    (object_of({"a": {"enum": ["x", "yes"]}}, "a"), [{"a": "yes"}], [{"a": "y"}, {"a": 1}]),
    (object_of({"a": {"$ref": "#/$defs/t"}}) | {"$defs": {"t": {"const": "x"}}},
     [{"a": "x"}, {}], [{"a": "y"}]),
    (object_of({"a": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}}, "a"),
     [{"a": []}, {"a": [1, 2]}], [{"a": [1, 2, 3]}, {"a": [True]}]),
    (object_of({}), [{}], [{"a": 1}]),
    ({"type": "object", "additionalProperties": False}, [{}], [{"a": 1}]),
    ({"type": "object", "required": ["a"], "additionalProperties": {"type": "integer"}},
     [{"a": 1}], [{}, {"a": None}]),
    ({}, [{"a": 1}, {"a": True, "b": None}, {}], []),
]  # fmt: skip


@EACH
@pytest.mark.parametrize(("parameters", "good", "bad"), SCHEMAS)
def test_calls_fit_their_schema(
    table: CallSyntax,
    parameters: dict[str, Any],
    good: list[dict[str, Any]],
    bad: list[dict[str, Any]],
) -> None:
    node = grammar(table, parameters)
    for arguments in good:
        assert any(allows(node, text) for text in _spelled(table, arguments)), arguments
    for arguments in bad:
        assert not any(allows(node, text) for text in _spelled(table, arguments)), arguments


def _spelled(table: CallSyntax, arguments: dict[str, Any]) -> list[str]:
    """A call as Python or JSON spells its values."""
    text = write_calls(table, [Call("f", arguments)])
    words = {"'": '"', "True": "true", "None": "null"}
    other = text
    for python, word in words.items():
        other = other.replace(python, word)
    return [text, other]


@EACH
@pytest.mark.parametrize(
    "member", [TEXT, NULLABLE, {"type": ["string", "null"]}, {"type": "object"}]
)
def test_whatever_is_allowed_is_read_and_fits(table: CallSyntax, member: dict[str, Any]) -> None:
    parameters = object_of({"a": member, "b": {"type": "boolean"}}, "a")
    node = grammar(table, parameters)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(text=texts_of(node))
    def check(text: str) -> None:
        answer = read([text], make_tools(table), callable_tools=(Tool("f", parameters),))
        assert [call.is_complete for call in answer.calls] == [True], text
        assert answer.content == "", text
        arguments = json.loads(answer.calls[0].arguments)
        kinds = (dict,) if member == {"type": "object"} else (str, type(None))
        assert isinstance(arguments["a"], kinds), text
        assert isinstance(arguments.get("b", True), bool), text

    check()


@pytest.mark.parametrize("table", [LINES, PAIRS, FLAGS])
def test_a_text_ends_where_it_is_read_to_end(table: TaggedCalls) -> None:
    node = grammar(table, object_of({"a": TEXT}, "a"))
    end = table.value[1]
    for value in ("x", "", "two\nlines\n", "007", "<", end[:-1]):
        assert allows(node, write_calls(table, [Call("f", {"a": value})]))
    assert not allows(node, write_calls(table, [Call("f", {"a": f"x{end}y"})]))


@EACH
@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"anyOf": [object_of({})]}, "'anyOf'"),
        ({"$ref": "#/$defs/a"}, "'\\$ref'"),
        (object_of({}) | {"patternProperties": {}}, "'patternProperties'"),
        (object_of({}) | {"minProperties": 1}, "'minProperties'"),
        ({"type": "string"}, "must be an object"),
        ({"required": ["a"], "additionalProperties": False}, "'required'"),
    ],
)
def test_what_cannot_be_promised_is_refused(
    table: CallSyntax, schema: dict[str, Any], message: str
) -> None:
    with pytest.raises(GrammarError, match=message):
        grammar(table, schema)


@pytest.mark.parametrize("table", [LINES, PAIRS, FLAGS, BRACES])
@pytest.mark.parametrize(
    ("member", "message"),
    [
        (TEXT | {"pattern": "a+"}, "'pattern' of 'a'"),
        (TEXT | {"maxLength": 3}, "'maxLength' of 'a'"),
        ({"enum": ["</parameter></value></arg><q>"]}, "'a' holds"),
    ],
)
def test_texts_of_a_form_without_quotes_are_refused(
    table: CallSyntax, member: dict[str, Any], message: str
) -> None:
    with pytest.raises(GrammarError, match=message):
        grammar(table, object_of({"a": member}))


@pytest.mark.parametrize("table", [LIST, ROWS, BARE])
def test_keys_that_python_does_not_know_are_refused(table: PythonCalls) -> None:
    with pytest.raises(GrammarError, match="'a b' of 'f'"):
        grammar(table, object_of({"a b": TEXT}))


def test_keys_that_are_no_bare_words_are_quoted() -> None:
    node = grammar(BRACES, object_of({"a b": {"type": "integer"}}, "a b"))
    assert allows(node, "<call>call:f{<q>a b<q>:1}</call>")
