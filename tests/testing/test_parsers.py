"""The checks of parsers find what is planted, and pass what is right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llmplug import ReasoningParserSpec, ToolParserSpec
from llmplug.dialect import (
    AnswerContext,
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Event,
    JsonCalls,
    Match,
    Reasoning,
    ReasoningSyntax,
    Tool,
    in_template,
)
from llmplug.testing import Call, check_reasoning_parser, check_tool_parser

TABLE = JsonCalls(start=("<call>",), end="</call>")
THINKING = ReasoningSyntax(start=("<think>",), end="</think>")
TEMPLATE = """\
{%- for m in messages %}<|{{ m.role }}|>
{%- if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}
{%- for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}<|end|>
{%- endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
TOKENS = ["<|end|>", "<|user|>", "<|assistant|>"]


def make_tools(**fields: Any) -> ToolParserSpec:
    return ToolParserSpec(**{"name": "mine", "detect": in_template("<call>"), **fields})


def make_reasoning(**fields: Any) -> ReasoningParserSpec:
    return ReasoningParserSpec(**{"name": "mine", "detect": in_template("<think>"), **fields})


def write(calls: Sequence[Call]) -> str:
    return "".join(f"<call>{call.name}|{call.json}</call>" for call in calls)


class LineParser:
    """Reads `<call>name|{...}</call>` once all of the answer is there."""

    def __init__(self, context: AnswerContext) -> None:
        self.context = context
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def feed(self, text: str) -> list[Event]:
        self.pieces.append(text)
        return []

    def finish(self) -> list[Event]:
        events: list[Event] = []
        index = 0
        for part in re.split(r"(<call>.*?(?:</call>|$))", self.text, flags=re.S):
            inner = part.removeprefix("<call>").removesuffix("</call>")
            name, bar, arguments = inner.partition("|")
            if part.startswith("<call>") and bar and name in {t.name for t in self.context.tools}:
                events += self.read_call(index, name, arguments)
                index += 1
            elif part.strip():
                events.append(Content(part.strip()))
        return events

    def read_call(self, index: int, name: str, arguments: str) -> list[Event]:
        return [
            CallStart(index, name),
            CallArguments(index, arguments),
            CallEnd(index, is_complete=is_object(arguments)),
        ]


def is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


class LosesACharacterAtACut(LineParser):
    def feed(self, text: str) -> list[Event]:
        return super().feed(text if self.pieces else text.removesuffix("<"))


class ForgetsToEnd(LineParser):
    def read_call(self, index: int, name: str, arguments: str) -> list[Event]:
        return super().read_call(index, name, arguments)[:2]


class CountsFromOne(LineParser):
    def read_call(self, index: int, name: str, arguments: str) -> list[Event]:
        return super().read_call(index + 1, name, arguments)


class RepairsJson(LineParser):
    def read_call(self, index: int, name: str, arguments: str) -> list[Event]:
        return super().read_call(index, name, arguments.replace(" ", ""))


class LooksTwice(LineParser):
    """Searches all that has come, with each piece."""

    def feed(self, text: str) -> list[Event]:
        super().feed(text)
        re.search("<call>.*</call>x", self.text, flags=re.S)
        return []


class IsAlwaysComplete(LineParser):
    def read_call(self, index: int, name: str, arguments: str) -> list[Event]:
        return [*super().read_call(index, name, arguments)[:2], CallEnd(index, is_complete=True)]


class CallsUnasked(LineParser):
    """Knows tools by heart."""

    def __init__(self, context: AnswerContext) -> None:
        super().__init__(AnswerContext((Tool("f"), *context.tools)))


def check(parser: Callable[[AnswerContext], Any], **settings: Any) -> None:
    check_tool_parser(make_tools(make=parser), write=write, num_examples=40, **settings)


def test_right_parsers_pass() -> None:
    """One by hand that knows no stream, and tables."""
    check(LineParser, num_chars=20_000)
    check_tool_parser(
        make_tools(syntax=(TABLE,)), reasoning=make_reasoning(syntax=THINKING), num_examples=20,
        template=TEMPLATE, tokens=TOKENS, num_chars=20_000,
    )  # fmt: skip
    check_reasoning_parser(
        make_reasoning(syntax=THINKING), template=TEMPLATE, tokens=TOKENS, num_examples=20,
        num_chars=20_000,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("parser", "words"),
    [
        (LosesACharacterAtACut, "a stream is read in another way than the whole text"),
        (ForgetsToEnd, "a call never ends|comes within a call"),
        (CountsFromOne, "calls are numbered from 0"),
        (RepairsJson, "the arguments read"),
        (IsAlwaysComplete, "its arguments are no JSON object"),
    ],
)
def test_a_planted_bug_is_found(parser: Callable[..., Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check(parser, num_chars=0)


def test_calls_that_nobody_asked_for_are_found() -> None:
    """A parser that takes the whole answer is asked without tools too."""
    with pytest.raises(AssertionError, match="gets no calls"):
        check_tool_parser(make_tools(make=CallsUnasked, is_whole=True), write=write, num_examples=5)


def test_a_parser_that_is_not_linear_is_found() -> None:
    with pytest.raises(AssertionError, match="4000 characters, 1 at a time, take too long"):
        check(LooksTwice)


class ForgetsTheEnd:
    """Thinking from the first character to the end marker, wherever it is cut."""

    def __init__(self, context: AnswerContext) -> None:
        self.is_thinking = True

    def feed(self, text: str) -> list[Event]:
        if not self.is_thinking:
            return [Content(text)]
        thought, marker, content = text.partition("</think>")
        self.is_thinking = not marker
        return [Reasoning(thought), Content(content)]

    def finish(self) -> list[Event]:
        return []


def test_thinking_that_is_read_in_pieces_in_another_way_is_found() -> None:
    spec = make_reasoning(make=ForgetsTheEnd, end="</think>", syntax=THINKING)
    with pytest.raises(AssertionError, match="a stream is read in another way"):
        check_reasoning_parser(spec, num_examples=20)


def test_what_the_spec_says_is_tried_too() -> None:
    with pytest.raises(AssertionError, match="reads nothing: give tables in `syntax`, or `make`"):
        check_tool_parser(make_tools())
    with pytest.raises(AssertionError, match="reads nothing: give `syntax`, or `make`"):
        check_reasoning_parser(make_reasoning())
    with pytest.raises(AssertionError, match="no table writes: give `write`"):
        check_tool_parser(make_tools(make=LineParser))


@pytest.mark.parametrize(
    ("spec", "template", "words"),
    [
        ({"detect": in_template("<other>")}, TEMPLATE, "`detect` of 'mine' gives Match.*score=0.0"),
        ({"detect": lambda *_: Match(7, "")}, TEMPLATE, "a score over 0, up to 1, and a reason"),
        ({}, TEMPLATE.replace("tojson", "string"), "the template writes are not read back"),
        ({}, TEMPLATE.replace("m.tool_calls", "[]"), "give a template that shows calls"),
    ],
)
def test_a_template_that_does_not_fit_is_found(
    spec: dict[str, Any], template: str, words: str
) -> None:
    tools = make_tools(syntax=(TABLE,), **spec)
    with pytest.raises(AssertionError, match=words):
        check_tool_parser(tools, template=template, tokens=TOKENS, num_examples=2, num_chars=0)
