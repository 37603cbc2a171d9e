"""Calls whose name stands before a JSON object."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from llmplug.chat.calls.named_calls import MAX_NAME
from llmplug.dialect import CallSyntax, NamedCalls
from llmplug.testing.answers import read

from .call_tables import CLOSED_NAMED, FENCED, NAMED, WITH_ID, make_tools

Read = tuple[str, str, bool]  # name, arguments, whether it is complete
F: Read = ("f", "{}", True)
G: Read = ("g", "{}", True)
F1: Read = ("f", '{"a": 1}', True)
NO_MARKER = NamedCalls(start="[ONE_CALL]", after_name="")


def check(table: CallSyntax, text: str, calls: Sequence[Read], content: str = "") -> None:
    """See that a text is read so, whole and character by character."""
    for pieces in ([text], list(text)):
        answer = read(pieces, make_tools(table))
        found = [(call.name, call.arguments, call.is_complete) for call in answer.calls]
        assert found == list(calls)
        assert answer.content == content


FENCE = '<one_call>function<sep>f\n```json\n{"a": 1}\n```</one_call>'


@pytest.mark.parametrize(
    ("table", "text", "calls", "content"),
    [
        (NAMED, '[ONE_CALL]f[ARGS]{"a": 1}', [F1], ""),
        (NAMED, "[ONE_CALL]f[ARGS]{}[ONE_CALL] g\n[ARGS] {}so", [F, G], "so"),
        (NO_MARKER, '[ONE_CALL]f{"a": {}}', [("f", '{"a": {}}', True)], ""),
        (CLOSED_NAMED, "<function=f>{}</function> so", [F], "so"),
        (CLOSED_NAMED, "<function=f></function>", [F], ""),
        (CLOSED_NAMED, "<function=f>{}", [F], ""),
        (FENCED, f"so\n<section>{FENCE}\n{FENCE}</section>", [F1] * 2, "so"),
        (FENCED, f"<section>{FENCE}", [F1], ""),
        (FENCED, "<section><one_call>function<sep>f```json```</one_call>", [F], ""),
        # a call's own end may be missing where what follows is plain
        (CLOSED_NAMED, "<function=f>{}<function=g>{}</function>", [F, G], ""),
        (FENCED, f"<section>{FENCE.replace('```</', '</')}</section>", [F1], "</one_call>"),
        (FENCED, "<section><one_call>function<sep>f\n```json{}</section>x", [F], "x"),
        # malformed
        (NAMED, "[ONE_CALL]f[ARGS][1]", [("f", "", False)], "[1]"),
        (NAMED, '[ONE_CALL]f[ARGS]{"a": tru}', [("f", '{"a": tru', False)], "}"),
        (NAMED, "[ONE_CALL]f[ARGS]", [("f", "", False)], ""),
        (NAMED, " [ONE_CALL]f", [], " [ONE_CALL]f"),
        (NAMED, "[ONE_CALL][ARGS]{}", [], "[ONE_CALL][ARGS]{}"),
        (NAMED, "[ONE_CALL]a\nb[ARGS]{}", [], "[ONE_CALL]a\nb[ARGS]{}"),
        (NAMED, "[ONE_CALL] or [ONE_CALL]f[ARGS]{}", [F], "[ONE_CALL] or"),
        (CLOSED_NAMED, "<function=f>{} x</function>y", [F], "xy"),
        (FENCED, "<section></section>", [], "<section></section>"),
        (FENCED, "<section> <one_call>function<sep>\n", [], "<section> <one_call>function<sep>\n"),
        (FENCED, f"<section> {FENCE} x <one_call></section> y", [F1], "x <one_call>y"),
        (WITH_ID, "<section><one_call>f<args>{}</one_call></section>", [],
         "<section><one_call>f<args>{}</one_call></section>"),
    ],
)  # fmt: skip
def test_calls_are_read_and_the_rest_is_text(
    table: CallSyntax, text: str, calls: list[Read], content: str
) -> None:
    check(table, text, calls, content)


def test_ids_are_the_models_own() -> None:
    text = "<section><one_call>functions.my.f:12<args>{}</one_call></section>"
    answer = read([text], make_tools(WITH_ID))
    assert [(call.name, call.id) for call in answer.calls] == [("my.f", "functions.my.f:12")]


def test_text_is_not_held_for_long_where_a_name_may_come() -> None:
    long = "x" * (MAX_NAME + 1)
    check(NAMED, f"[ONE_CALL]{long}[ARGS]{{}}", [], f"[ONE_CALL]{long}[ARGS]{{}}")
    check(NAMED, f"[ONE_CALL]{long[1:]}[ARGS]{{}}", [(long[1:], "{}", True)])
