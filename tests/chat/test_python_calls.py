"""Calls as Python writes them."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmplug.chat.calls.python_literals import LiteralScanner, to_json
from llmplug.dialect import CallSyntax, PythonCalls

from .call_tables import make_tools
from .dialect_properties import read

Read = tuple[str, str, bool]  # name, arguments, whether it is complete

LIST = PythonCalls(start=("<calls>",), end="</calls>")
BARE = PythonCalls(start=("<calls>",), is_bare=True)
LINES = PythonCalls(start=("<calls>\n",), end="\n</calls>", is_list=False)


def check(table: CallSyntax, text: str, calls: Sequence[Read], content: str = "") -> None:
    """See that a text is read so, whole and character by character."""
    for pieces in ([text], list(text)):
        answer = read(pieces, make_tools(table))
        found = [(call.name, call.arguments, call.is_complete) for call in answer.calls]
        assert found == list(calls)
        assert answer.content == content


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("'a\"b'", '"a\\"b"'),
        (r"'\x41\u00e9\n'", '"Aé\\n"'),
        ('"""two\nlines"""', '"two\\nlines"'),
        ("'a' 'b'", '"ab"'),
        ("1_000", "1000"),
        ("0x1F", "31"),
        ("-2.5", "-2.5"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("(1, [True, None])", "[1, [true, null]]"),
        ("[true, false, null]", "[true, false, null]"),
        ("{'a': {\"b\": ()}}", '{"a": {"b": []}}'),
    ],
)
def test_literals_become_json(text: str, written: str) -> None:
    assert to_json(text) == written


@pytest.mark.parametrize(
    "text",
    ["x", "f(1)", "b'x'", "f'{1}'", "{1, 2}", "{1: 2}", "1 + 1", "2j", "1e999", "-'a'", "'\\ud800'",
     "(", "*a", "lambda: 1", "[" * 500 + "]" * 500, ""],
)  # fmt: skip
def test_anything_else_is_none(text: str) -> None:
    assert to_json(text) is None


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, width=32),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(LITERALS.filter(lambda value: "inf" not in repr(value)))
def test_what_python_writes_is_read_back(value: object) -> None:
    written = to_json(repr(value))
    assert written is not None
    assert json.loads(written) == json.loads(json.dumps(ast.literal_eval(repr(value))))


@given(LITERALS, st.sampled_from([",", ")"]))
def test_a_value_ends_where_it_ends(value: object, end: str) -> None:
    text = repr(value)
    scanner = LiteralScanner()
    assert scanner.feed(text + end) == len(text)
    assert scanner.is_done


@pytest.mark.parametrize(
    ("table", "text", "calls", "content"),
    [
        (LIST, "so <calls>[f(a=1, b='x'), find()]</calls> end",
         [("f", '{"a": 1, "b": "x"}', True), ("find", "{}", True)], "soend"),
        (LIST, "<calls>[f(a=')</calls>')]</calls>", [("f", '{"a": ")</calls>"}', True)], ""),
        (LIST, "<calls>[a.b-c(a=1,)]</calls>", [("a.b-c", '{"a": 1}', True)], ""),
        (LINES, "<calls>\nf(a=1)\n\nfind()\n</calls>",
         [("f", '{"a": 1}', True), ("find", "{}", True)], ""),
        (BARE, "[f(a=[1, {'b': 2}])] so", [("f", '{"a": [1, {"b": 2}]}', True)], "so"),
        (BARE, "[unknown(a=1)]", [], "[unknown(a=1)]"),
        (BARE, "[1, 2] are numbers", [], "[1, 2] are numbers"),
        (BARE, "so [f(a=1)]", [], "so [f(a=1)]"),
        # malformed
        (LIST, "<calls>[]</calls>", [], "<calls>[]</calls>"),
        (LIST, "<calls>f()</calls>", [], "<calls>f()</calls>"),
        (LIST, "<calls>[f(1)]</calls>so", [("f", "", False)], "1)]so"),
        (LIST, "<calls>[f(a=x)]</calls>so", [("f", "", False)], "a=x)]so"),
        (LIST, "<calls>[f(a=1, a=2)]</calls>", [("f", '{"a": 1', False)], " a=2)]"),
        (LIST, "<calls>[f(a=1]</calls>", [("f", "", False)], "a=1]"),
        (LIST, "<calls>[f(a='x", [("f", "", False)], "a='x"),
        (LIST, "<calls>[f(a=1) g()]</calls>", [("f", '{"a": 1}', True)], " g()]"),
    ],
)  # fmt: skip
def test_calls_are_read_and_the_rest_is_text(
    table: CallSyntax, text: str, calls: list[Read], content: str
) -> None:
    check(table, text, calls, content)
