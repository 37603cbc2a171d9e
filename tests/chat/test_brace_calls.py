"""Calls whose keys are bare words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from llmplug.dialect import BraceCalls
from llmplug.testing.answers import read

from .call_tables import make_tools

Read = tuple[str, str, bool]  # name, arguments, whether it is complete

TABLE = BraceCalls(start="<call>call:", quote="<q>", end="</call>")


def check(text: str, calls: Sequence[Read], content: str = "") -> None:
    """See that a text is read so, whole and character by character."""
    for pieces in ([text], list(text)):
        answer = read(pieces, make_tools(TABLE))
        found = [(call.name, call.arguments, call.is_complete) for call in answer.calls]
        assert found == list(calls)
        assert answer.content == content


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ("", "{}"),
        ("a:<q>x<q>", '{"a": "x"}'),
        ("a:<q></call>{<q>", '{"a": "</call>{"}'),
        ('a:<q>"\\<q>', '{"a": "\\"\\\\"}'),
        ("a:1,b:-2.50,c:1e5", '{"a": 1, "b": -2.50, "c": 1e5}'),
        ("a:true, b: false ,c:null", '{"a": true, "b": false, "c": null}'),
        ("a:{b:[1,<q>x<q>,[]],c:{}}", '{"a": {"b": [1, "x", []], "c": {}}}'),
        ("<q>a b<q>:1", '{"a b": 1}'),
    ],
)
def test_arguments_become_json(body: str, arguments: str) -> None:
    check(f"so <call>call:f{{{body}}}</call> end", [("f", arguments, True)], "soend")


@pytest.mark.parametrize(
    ("text", "calls", "content"),
    [
        ("<call>call:f", [], "<call>call:f"),
        ("<call>call:</call>", [], "<call>call:</call>"),
        ("<call>call:{}</call>", [], "<call>call:{}</call>"),
        ("<call>call:f{a:x}</call>so", [("f", "", False)], "{a:x}so"),
        ("<call>call:f{a:1 b:2}</call>", [("f", "", False)], "{a:1 b:2}"),
        ("<call>call:f{a:01}</call>", [("f", "", False)], "{a:01}"),
        ("<call>call:f{a:1}}</call>", [("f", "", False)], "{a:1}}"),
        ("<call>call:f{a:1,a:2}</call>", [("f", "", False)], "{a:1,a:2}"),
        ("<call>call:f{a:{b:1,b:2}}", [("f", '{"a": {"b": 1, "b": 2}}', True)], ""),
        ("<call>call:f{a:<q>x", [("f", "", False)], "{a:<q>x"),
        (f"<call>call:f{{a:{'[' * 200}</call>", [("f", "", False)], f"{{a:{'[' * 200}"),
    ],
)
def test_what_goes_wrong_is_text(text: str, calls: list[Read], content: str) -> None:
    check(text, calls, content)
