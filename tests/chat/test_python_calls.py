"""Calls as Python writes them."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmplug.answer_parts.python_literals import LiteralScanner, to_json
from llmplug.dialect import CallSyntax, PythonCalls
from llmplug.testing.answers import read

from .call_tables import make_tools

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
        ("(1)", "1"),
        ("('a', )", '["a"]'),
        ("1.50", "1.50"),
        ("1E+5", "1E+5"),
        ("9" * 5000, "9" * 5000),
        (".5", "0.5"),
        ("+ 1_0.", "10.0"),
        ("- 0b11", "-3"),
        (r"r'\d' u'\u00e9'", r'"\\dé"'),
        (r"'\N{BULLET}\101\d'", r'"•A\\d"'),
        (r'"\/\u00e9"', r'"\/\u00e9"'),
        (r'"\ud83c\udf89"', '"🎉"'),
    ],
)
def test_literals_become_json(text: str, written: str) -> None:
    assert to_json(text) == written


@pytest.mark.parametrize(
    "text",
    ["x", "f(1)", "b'x'", "f'{1}'", "{1, 2}", "{1: 2}", "1 + 1", "2j", "1e999", "-'a'", "'\\ud800'",
     "(", "*a", "lambda: 1", "[" * 500 + "]" * 500, "", "[1 2]", "[,]", "007", "1__0", "nan",
     "'a' 1", "'a\n'", r"'\x4'", r"'\N{no such}'", "{'a'}", "{'a': 1 'b': 2}", "{**{}}", "1\u0663",
     "[1](0)"],
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


PIECES = st.sampled_from(
    ["1", "0", "-", "+", ".", "e", "_", "x", "'", '"', "'''", "a", "\\", "\\n", "r", "u", "True",
     "None", "[", "]", "(", ")", "{", "}", ",", ":", " ", "\n", "\\x41", "\\7"]
)  # fmt: skip


@settings(max_examples=500)
@given(st.lists(PIECES, max_size=10).map(lambda pieces: f"[{''.join(pieces)}]"))
def test_it_reads_no_more_and_no_less_than_python(text: str) -> None:
    written = to_json(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)
        expected = json.dumps(value, allow_nan=False)
    except (SyntaxError, ValueError, TypeError):
        expected = None
    if written is None or expected is None:
        # Sums, many zeros, keys that are no strings and broken lines are none here.
        assert written is None
        assert expected is None or re.search(r"0[0_]|[{+-]|\\\n", text)
    else:
        assert json.loads(written) == json.loads(expected)


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
