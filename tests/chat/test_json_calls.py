"""Calls as JSON objects: what is read, and where reading breaks off."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmplug.answer_parts.json_scanner import MAX_DEPTH, JsonScanner
from llmplug.dialect import CallSyntax, JsonCalls
from llmplug.testing.answers import read

from .call_tables import (
    BARE,
    BARE_LIST,
    BY_NAME,
    CLOSED_LIST,
    LIST,
    OBJECTS,
    OPEN_OBJECT,
    TAGGED_OBJECT,
    make_tools,
)

Read = tuple[str, str, bool]  # name, arguments, whether it is complete
F: Read = ("f", "{}", True)
BROKEN: Read = ("f", "", False)


def check(table: CallSyntax, text: str, calls: Sequence[Read], content: str = "") -> None:
    """See that a text is read so, whole and character by character."""
    for pieces in ([text], list(text)):
        answer = read(pieces, make_tools(table))
        found = [(call.name, call.arguments, call.is_complete) for call in answer.calls]
        assert found == list(calls)
        assert answer.content == content


@pytest.mark.parametrize(
    ("table", "text", "calls"),
    [
        (TAGGED_OBJECT, '<one_call>{"name": "f"}</one_call>', [F]),
        (TAGGED_OBJECT, '<one_call>\n{"name": "f", "arguments": {}}\n', [F]),
        (OPEN_OBJECT, '<one_call> {"name": "f"}', [F]),
        (OPEN_OBJECT, '<one_call>{"arguments": { "a":1 }, "name":"f"}', [("f", '{ "a":1 }', True)]),
        (OPEN_OBJECT, '<one_call>{"arguments": {"a": 1}, "name":"f"', [("f", '{"a": 1}', True)]),
        (OPEN_OBJECT, '<one_call>{"name": "\\u0066\\"", "id": [{}]}', [('f"', "{}", True)]),
        (OPEN_OBJECT, '<one_call>{"x": "{\\"name\\": 1}", "name": "f"}', [F]),
        (LIST, '[ALL_CALLS] [{"name": "f"},{"name":"find"} ]', [F, ("find", "{}", True)]),
        (
            CLOSED_LIST,
            '<|all_calls|>[{"name": "f", "parameters": {"name": "x"}}]\n</all_calls>',
            [("f", '{"name": "x"}', True)],
        ),
        (
            OBJECTS,
            '<|call_tag|>{"name": "f"}; {"name": "f"}\n{"name": "find"}<|end|>',
            [("f", "{}", True), ("f", "{}", True), ("find", "{}", True)],
        ),
        (BY_NAME, '<|prefix|>[{"f": {"a": {}}}, {"find": {}}]<|suffix|>',
         [("f", '{"a": {}}', True), ("find", "{}", True)]),
        (BARE, ' {"name": "f", "parameters": {"a": 1}}', [("f", '{"a": 1}', True)]),
        (BARE, '{"name": "f"};{"name": "find"}', [("f", "{}", True), ("find", "{}", True)]),
        (BARE_LIST, '[{"name": "f"}]\n', [F]),
    ],
)  # fmt: skip
def test_whole_calls_are_read(table: CallSyntax, text: str, calls: list[Read]) -> None:
    check(table, text, calls)


@pytest.mark.parametrize(
    ("table", "text", "calls", "content"),
    [
        # broken off
        (OPEN_OBJECT, '<one_call>{"name": "f", "arg', [BROKEN], ""),
        (OPEN_OBJECT, '<one_call>{"name": "f", "arguments": {"a', [("f", '{"a', False)], ""),
        (OPEN_OBJECT, '<one_call>{"name": "f', [], '<one_call>{"name": "f'),
        (LIST, '[ALL_CALLS][{"name": "f"}, {"na', [F], ', {"na'),
        # malformed within a call: it ends there, and the rest is text
        (TAGGED_OBJECT, '<one_call>{"name": "f", "arguments": 1}</one_call> x', [BROKEN], "1}x"),
        (TAGGED_OBJECT, '<one_call>{"name": "f", "arguments": "{}"}', [BROKEN], '"{}"}'),
        (
            TAGGED_OBJECT,
            '<one_call>{"name": "f", "arguments": {"a": "\\x"}}</one_call>so',
            [("f", '{"a": "\\', False)],
            'x"}}so',
        ),
        (
            OPEN_OBJECT,
            '<one_call>{"name": "f", "arguments": {"a": 01}}',
            [("f", '{"a": 0', False)],
            "1}}",
        ),
        (
            OPEN_OBJECT,
            '<one_call>{"name": "f", "arguments": {}, "arguments": {}}',
            [("f", "{}", False)],
            ": {}}",
        ),
        (OPEN_OBJECT, '<one_call>{"name": "f", "name": "g"}', [BROKEN], ': "g"}'),
        # no call at all
        (TAGGED_OBJECT, "<one_call>f</one_call>", [], "<one_call>f</one_call>"),
        (TAGGED_OBJECT, " <one_call> </one_call>", [], " <one_call> </one_call>"),
        (LIST, "so [ALL_CALLS] []", [], "so [ALL_CALLS] []"),
        (OPEN_OBJECT, '<one_call>{"name": ""}', [], '<one_call>{"name": ""}'),
        (OPEN_OBJECT, '<one_call>{"name": "\\ud800"}', [], '<one_call>{"name": "\\ud800"}'),
        (OPEN_OBJECT, '<one_call>{"arguments": {}}', [], '<one_call>{"arguments": {}}'),
        (BARE, ' {"name": "unknown"}', [], ' {"name": "unknown"}'),
        (BARE, '{"answer": 1}', [], '{"answer": 1}'),
        (BARE, "{ }", [], "{ }"),
        (BARE_LIST, '[1, {"name": "f"}]', [], '[1, {"name": "f"}]'),
        # behind whole calls
        (TAGGED_OBJECT, '<one_call>{"name": "f"} {"a"}</one_call>so', [F], '{"a"}so'),
        (BARE, '{"name": "f"}, so', [F], ", so"),
        (BARE, '{"name": "f"};', [F], ";"),
        (LIST, '[ALL_CALLS][{"name": "f"} so', [F], "so"),
        (OBJECTS, '<|call_tag|>{"name": "f"} so <|end|>', [F], "so"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_not_repaired_and_not_lost(
    table: CallSyntax, text: str, calls: list[Read], content: str
) -> None:
    check(table, text, calls, content)


def test_the_object_may_be_behind_a_marker_that_ends_nothing() -> None:
    """Text goes on behind the JSON's own end."""
    check(OPEN_OBJECT, '<one_call>{"name": "f"} so', [F], "so")
    nothing_but_end = JsonCalls(start=("<x>",), end="</x>", holds="objects")
    check(nothing_but_end, '<x>{"name": "f"}</x></x>', [F], "</x>")


# --- the scanner --------------------------------------------------------------------------------
def scan(text: str, pieces: Sequence[str]) -> tuple[bool, bool, int]:
    """Whether it is done, whether it is bad, and how many characters it took."""
    scanner, taken = JsonScanner(), 0
    for piece in pieces:
        end = scanner.feed(piece)
        taken += end
        if end < len(piece):
            break
    return scanner.is_done, scanner.is_bad, taken


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda items: st.lists(items, max_size=4) | st.dictionaries(st.text(), items, max_size=4),
)


def write(value: object, indent: int | None) -> str:
    """Write a list that holds a value."""
    return json.dumps([value], indent=indent, ensure_ascii=indent is None)


JSON_TEXTS = st.builds(write, JSON_VALUES, st.sampled_from([None, 1]))


@settings(max_examples=150, deadline=None)
@given(text=JSON_TEXTS)
def test_valid_json_is_read_to_its_end_and_no_further(text: str) -> None:
    for pieces in ([text + "]x"], [*text, "]"]):
        assert scan(text, pieces) == (True, False, len(text))


@settings(max_examples=400, deadline=None)
@given(text=st.text(st.sampled_from('[]{}",:\\ux0123eE+-. \n\ttrufalsn\x01'), max_size=24))
@example('["\\u12g4"]')
@example("[1.e5]")
@example("[-]")
@example('{"a":1,}')
def test_it_takes_what_the_json_module_takes(text: str) -> None:
    """An array or object is done exactly where the module's own decoder says that it ends."""
    if text[:1] not in {"[", "{"}:
        return
    is_done, _, taken = scan(text, [text])
    try:
        _, end = json.JSONDecoder(parse_constant=_refuse).raw_decode(text)
    except ValueError:
        assert not is_done
    else:
        assert (is_done, taken) == (True, end)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def test_depth_is_bounded() -> None:
    for depth, is_bad in ((MAX_DEPTH, False), (MAX_DEPTH + 1, True)):
        assert scan("", ["[" * depth]) == (False, is_bad, min(depth, MAX_DEPTH))
