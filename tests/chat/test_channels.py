"""What stands where in an answer: content, thinking, calls."""

from __future__ import annotations

from typing import Any

import pytest

from llmplug import ReasoningParserSpec, ToolParserSpec
from llmplug.chat.channels import make_parser
from llmplug.dialect import (
    NO_MATCH,
    AnswerContext,
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Event,
    Headers,
    JsonCalls,
    NamedCalls,
    Reasoning,
    ReasoningSyntax,
    Tool,
)
from llmplug.testing.answers import read
from llmplug.testing.dialect_properties import check_dialect
from llmplug.testing.reading_speed import check_speed

from .call_tables import LIST, NAMED, TABLES, TAGGED_OBJECT, THINKING, make_tools

CALL = '<one_call>{"name": "f", "arguments": {"a": 1}}</one_call>'
CALLED: list[Event] = [
    CallStart(0, "f"),
    CallArguments(0, '{"a": 1}'),
    CallEnd(0, is_complete=True),
]


def as_part(event: Event) -> tuple[str, str]:
    """An event of a call as `Answer.parts` has it."""
    return type(event).__name__, getattr(event, "text", "") or repr(event)


def split(
    text: str,
    tools: ToolParserSpec | None = None,
    reasoning: ReasoningParserSpec | None = THINKING,
    prompt_end: str = "",
) -> list[Event]:
    """Read a text at once."""
    context = AnswerContext(tools=(Tool("f"), Tool("g")), prompt_end=prompt_end)
    parser = make_parser(reasoning, tools or make_tools(TAGGED_OBJECT), context)
    return parser.feed(text) + parser.finish()


def thinking(**changes: Any) -> ReasoningParserSpec:
    """Thinking of another syntax."""
    syntax = ReasoningSyntax(**{"start": ("<think>",), "end": "</think>", **changes})
    return ReasoningParserSpec(name="other", detect=lambda *_: NO_MATCH, syntax=syntax)


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("", []),
        ("Hello\n", [Content("Hello"), Content("\n")]),
        ("<think>\nSo.\n</think>\n\nYes", [Reasoning("So."), Content("Yes")]),
        (" \n<think>So</think>Yes", [Reasoning("So"), Content("Yes")]),
        ("<think>So", [Reasoning("So")]),
        ("<think>So</thin", [Reasoning("So"), Reasoning("</thin")]),
        ("<think></think>Yes", [Content("Yes")]),
        ("<think>a</think>\n<think>b</think>c", [Reasoning("a"), Reasoning("b"), Content("c")]),
        ("<think>a<think>b</think>c", [Reasoning("a<think>b"), Content("c")]),
        (f"<think>a\n{CALL}", [Reasoning("a"), *CALLED]),
        (f"{CALL}\n<think>b</think>c", [*CALLED, Reasoning("b"), Content("c")]),
        (f"Look:\n{CALL}\nWell", [Content("Look:"), *CALLED, Content("Well")]),
    ],
)
def test_thinking_and_calls_come_in_turn(text: str, events: list[Event]) -> None:
    assert split(text) == events


@pytest.mark.parametrize(
    "text",
    [
        "A block opens with <think> and closes with </think>.",
        "So I thought.</think>Yes",
        "a <one_call",
        "</one_call> alone",
        "<thin king>",
    ],
)
def test_a_marker_out_of_its_place_is_text(text: str) -> None:
    assert "".join(str(event.text) for event in split(text) if isinstance(event, Content)) == text


@pytest.mark.parametrize(
    ("prompt_end", "is_implied", "begins_within"),
    [
        ("assistant\n<think>\n", False, True),
        ("assistant\n<think>\n\n</think>\n\n", False, False),
        ("assistant\n<think>a</think>b<think>", False, True),
        ("assistant\n", False, False),
        ("assistant\n", True, True),
        ("assistant\n<think></think>", True, False),
    ],
)
def test_the_prompt_says_whether_an_answer_begins_with_thinking(
    prompt_end: str, is_implied: bool, begins_within: bool
) -> None:
    answer = split("So\n</think>Yes", None, thinking(is_implied=is_implied), prompt_end)
    first = [Reasoning("So"), Content("Yes")]
    assert answer == (first if begins_within else [Content("So\n</think>Yes")])


@pytest.mark.parametrize(
    ("prompt_end", "text", "content"),
    [
        ("", "<r>Yes</r><end>", "Yes"),
        ("", "<end> Yes <end>", "Yes"),
        ("", "Yes</r>No<r>", "Yes</r>No<r>"),
        ("<r>", "Yes</r><end>", "Yes"),
        ("<r>a</r>", "Yes</r>", "Yes</r>"),
    ],
)
def test_markers_round_answers_and_those_that_say_nothing(
    prompt_end: str, text: str, content: str
) -> None:
    spec = thinking(answer=("<r>", "</r>"), dropped=("<end>",))
    for pieces in ([text], list(text)):
        assert read(pieces, None, spec, prompt_end=prompt_end).content == content
        thought = read(["<think>So<end></think>", *pieces], None, spec)
        assert thought.reasoning == "So<end>"


def test_a_thought_that_has_begun_in_the_prompt_keeps_its_space() -> None:
    assert split(" so</think>", prompt_end="<think>Say") == [Reasoning(" so")]
    assert split(" so</think>", prompt_end="<think>\n") == [Reasoning("so")]


class WordsUpToColon:
    """Reads `think:` before a thought, and `say:` before content."""

    def __init__(self) -> None:
        self.is_thinking = False
        self._held = ""

    def feed(self, text: str) -> str | None:
        self._held += text
        word, colon, rest = self._held.partition(":")
        if not colon:
            return None if "think".startswith(word) or "say".startswith(word) else word
        self.is_thinking = word == "think"
        return rest if word in {"think", "say"} else self._held

    def finish(self) -> str:
        return self._held


@pytest.mark.parametrize(
    ("prompt_end", "text", "parts"),
    [
        ("", "think:a;say:b", [("Reasoning", "a"), ("Content", "b")]),
        ("", "think:a;think:b;c", [("Reasoning", "ab"), ("Content", "c")]),
        (
            "",
            f"think:a;say:{CALL};say:b",
            [("Reasoning", "a"), *map(as_part, CALLED), ("Content", "b")],
        ),
        ("", "say:a;thi", [("Content", "athi")]),
        ("say:", "think:a", [("Content", "think:a")]),
    ],
)
def test_headers_say_which_texts_are_thoughts(
    prompt_end: str, text: str, parts: list[tuple[str, str]]
) -> None:
    headers = Headers(markers=(), open=lambda end: None if end else WordsUpToColon())
    spec = thinking(start=(), end=";", dropped=(";",), headers=headers)
    for pieces in ([text], list(text)):
        answer = read(pieces, make_tools(TAGGED_OBJECT), spec, prompt_end=prompt_end)
        assert answer.parts == parts


def test_the_longest_marker_wins() -> None:
    tools = make_tools(JsonCalls(start=("<c",)), NamedCalls(start="<c=", after_name=">"))
    assert split('<c{"name": "f"}', tools)[0] == CallStart(0, "f")
    assert split("<c=g>{}", tools)[0] == CallStart(0, "g")
    answer = read(["<", "c"], tools)
    assert answer.content == "<c", "a marker at the very end is no call"


def test_a_marker_may_begin_as_a_bare_call_does() -> None:
    tools = make_tools(JsonCalls(start=(), is_bare=True, holds="list"), NAMED)
    assert split("[ONE_CALL]f[ARGS]{}", tools)[0] == CallStart(0, "f")
    assert split('[{"name": "g"}]', tools)[0] == CallStart(0, "g")
    assert read(["[", "ONE_", "x"], tools).content == "[ONE_x"


def test_bare_calls_stand_first_or_not_at_all() -> None:
    tools = make_tools(JsonCalls(start=(), is_bare=True))
    call = '{"name": "f"}'
    assert [call.name for call in read([f"\n{call}"], tools).calls] == ["f"]
    assert [call.name for call in read([f"<think>a</think>{call}"], tools, THINKING).calls] == ["f"]
    assert read([f"So: {call}"], tools).content == f"So: {call}"


def test_calls_of_all_tables_are_numbered_through() -> None:
    tools = make_tools(TAGGED_OBJECT, LIST, NAMED)
    text = f'{CALL}[ALL_CALLS][{{"name": "g"}}, {{"name": "f"}}] and [ONE_CALL]g[ARGS]{{}}'
    starts = [event for event in split(text, tools) if isinstance(event, CallStart)]
    names = ["f", "g", "f", "g"]
    assert starts == [CallStart(index, name) for index, name in enumerate(names)]


def test_markers_within_arguments_are_text() -> None:
    arguments = '{"a": "</one_call> <think> <one_call>{\\"name\\": \\"g\\"}"}'
    answer = read(
        [f'<one_call>{{"name": "f", "arguments": {arguments}}}</one_call>'],
        make_tools(TAGGED_OBJECT),
    )
    assert [(call.name, call.arguments) for call in answer.calls] == [("f", arguments)]


def test_text_is_held_back_no_longer_than_it_may_be_a_marker() -> None:
    parser = make_parser(THINKING, make_tools(TAGGED_OBJECT), AnswerContext(tools=(Tool("f"),)))
    assert parser.feed("a <one_") == [Content("a")]
    assert parser.feed("t") == [Content(" <one_t")]
    assert parser.feed(" \n") == []
    assert parser.feed("b") == [Content(" \nb")]
    assert parser.feed('<one_call>{"name": "f", "arguments": {"a": "b<') == [
        CallStart(0, "f"),
        CallArguments(0, '{"a": "b<'),
    ], "arguments are held back by nothing"


def test_without_tools_nothing_is_a_call() -> None:
    parser = make_parser(THINKING, make_tools(TAGGED_OBJECT), AnswerContext())
    assert parser.feed(f"<think>a</think>{CALL}") == [Reasoning("a"), Content(CALL)]


class Shouting:
    """A parser made by hand: words in capitals are thinking, or names of calls."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._words: list[str] = []

    def feed(self, text: str) -> list[Event]:
        """Take a word."""
        if not text.isupper():
            return [Content(text)]
        if self._kind == "thinking":
            return [Reasoning(text)]
        return [CallStart(0, text), CallArguments(0, "{}"), CallEnd(0, is_complete=True)]

    def finish(self) -> list[Event]:
        """End."""
        return []


def by_hand(kind: str, *, is_whole: bool = False) -> Any:
    """A dialect with a parser of its own."""
    make = lambda context: Shouting(kind)  # noqa: E731
    if kind == "thinking":
        return ReasoningParserSpec(name=kind, detect=lambda *_: NO_MATCH, make=make)
    return ToolParserSpec(name=kind, detect=lambda *_: NO_MATCH, make=make, is_whole=is_whole)


def test_parsers_made_by_hand_stand_before_and_behind_the_tables() -> None:
    before = make_parser(
        by_hand("thinking"), make_tools(TAGGED_OBJECT), AnswerContext(tools=(Tool("f"),))
    )
    assert before.feed("HM") + before.feed(CALL) == [Reasoning("HM"), *CALLED]
    behind = make_parser(THINKING, by_hand("calls"), AnswerContext(tools=(Tool("f"),)))
    assert behind.feed("<think>HM</think>F")[:2] == [Reasoning("HM"), CallStart(0, "F")]
    both = make_parser(by_hand("thinking"), by_hand("calls"), AnswerContext(tools=(Tool("f"),)))
    assert both.feed("HM") + both.feed("a") == [Reasoning("HM"), Content("a")]
    whole = make_parser(THINKING, by_hand("calls", is_whole=True), AnswerContext())
    assert whole.feed("<think>a") == [Content("<think>a")], "it takes the whole answer"
    idle = make_parser(None, by_hand("calls"), AnswerContext())
    assert idle.feed("F") == [Content("F")], "without tools it is not asked"


@pytest.mark.parametrize("reasoning", [None, THINKING], ids=["calls alone", "with thinking"])
@pytest.mark.parametrize("name", TABLES)
def test_what_holds_for_every_dialect(name: str, reasoning: ReasoningParserSpec | None) -> None:
    check_dialect(make_tools(*TABLES[name]), reasoning, num_examples=40)


@pytest.mark.parametrize(
    "name", ["a list between tags", "objects, bare too", "a name before", "ids in a section"]
)
def test_no_text_takes_long(name: str) -> None:
    check_speed(make_tools(*TABLES[name]), THINKING)
