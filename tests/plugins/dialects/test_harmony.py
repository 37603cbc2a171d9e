"""Harmony, as its documentation and the template of gpt-oss write it.

Source of the transcripts: https://github.com/openai/harmony/blob/main/docs/format.md
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmplug_harmony
from llmplug.chat.call_grammar import build_answer_grammar
from llmplug.chat.channels import Dialect
from llmplug.dialect import AnswerContext, Content, Reasoning, Tool
from llmplug.grammar import Node, Regex
from llmplug.testing import check_tool_parser
from llmplug.testing.call_writing import Call as WrittenCall
from llmplug.testing.reading_speed import check_speed
from llmplug_harmony.parser import MAX_HEADER, HarmonyParser
from tests.plugins.dialects.reading import TOOLS, Answer, Call, PluginDialect, accepts

HARMONY = PluginDialect(llmplug_harmony, "harmony", "harmony")
PROMPT_END = "<|start|>assistant"

ANSWER = (
    '<|channel|>analysis<|message|>User asks: "What is 2 + 2?" Simple arithmetic. Provide answer.'
    "<|end|>\n<|start|>assistant<|channel|>final<|message|>2 + 2 = 4.<|return|>"
)
CALL = (
    "<|channel|>analysis<|message|>Need to use function get_weather.<|end|><|start|>assistant"
    "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    '{"city":"San Francisco"}<|call|>'
)
PREAMBLE = (
    "<|channel|>analysis<|message|>{long chain of thought}<|end|><|start|>assistant"
    "<|channel|>commentary<|message|>**Action plan**:\n1. Look<|end|><|start|>assistant"
    '<|channel|>commentary to=functions.get_weather<|constrain|>json<|message|>{"city": "Rome"}'
    "<|call|>"
)


def test_answer() -> None:
    expected = Answer(
        "2 + 2 = 4.", 'User asks: "What is 2 + 2?" Simple arithmetic. Provide answer.'
    )
    assert HARMONY.read(ANSWER, PROMPT_END) == expected
    assert HARMONY.read(ANSWER.removesuffix("<|return|>"), PROMPT_END) == expected
    assert HARMONY.read(ANSWER, PROMPT_END, tools=()) == expected


def test_call() -> None:
    call = Call("get_weather", {"city": "San Francisco"})
    expected = Answer("", "Need to use function get_weather.", [call])
    assert HARMONY.read(CALL, PROMPT_END) == expected
    assert HARMONY.read(CALL.removesuffix("<|call|>"), PROMPT_END) == expected


def test_preamble_is_content() -> None:
    call = Call("get_weather", {"city": "Rome"})
    expected = Answer("**Action plan**:\n1. Look", "{long chain of thought}", [call])
    assert HARMONY.read(PREAMBLE, PROMPT_END) == expected


def test_recipient_in_the_role() -> None:
    text = ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Rome"}<|call|>'
    expected = Answer(calls=[Call("get_weather", {"city": "Rome"})])
    assert HARMONY.read(text, PROMPT_END) == expected
    assert HARMONY.read(f"{PROMPT_END}{text}") == expected


def test_tools_of_its_own_are_thinking() -> None:
    text = "<|channel|>analysis to=python code<|message|>print(1)<|call|>"
    assert HARMONY.read(text, PROMPT_END) == Answer("", "print(1)")


def test_continued_message() -> None:
    prompt_end = "<|start|>assistant<|channel|>final<|message|>2 + 2"
    assert HARMONY.read(" = 4.<|return|>", prompt_end) == Answer(" = 4.")


def test_text_without_header() -> None:
    assert HARMONY.read('{"a": 1}', PROMPT_END) == Answer('{"a": 1}')
    assert HARMONY.read("Hello! a <| b", PROMPT_END) == Answer("Hello! a <| b")
    too_long = "<|start|>" + "a" * MAX_HEADER
    assert HARMONY.read(f"{too_long}<|message|>b") == Answer(f"{too_long}<|message|>b")


@pytest.mark.parametrize(
    ("written", "is_complete"),
    [("{}", True), ("", True), ('{"city": "R', False), ("[1]", False), ("{]", False)],
)
def test_arguments(written: str, is_complete: bool) -> None:
    text = f"<|channel|>commentary to=functions.get_weather<|message|>{written}"
    (call,) = HARMONY.read(text, PROMPT_END).calls
    assert call.is_complete is is_complete
    assert call.arguments == ({} if is_complete else written)


def test_forced_calls() -> None:
    call = CALL.partition("<|start|>assistant")[2].removesuffix("<|call|>")
    assert HARMONY.allows(call)
    assert not HARMONY.allows(call.replace("get_weather", "get_rain"))
    assert not HARMONY.allows(call.replace("city", "town"))


CONTROL = ["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>"]
CALL_TEXT = CALL.removesuffix("<|call|>")
ANSWER_TEXT = ANSWER.removesuffix("<|return|>").replace("\n", "")
PREAMBLE_TEXT = PREAMBLE.removesuffix("<|call|>").replace("weather<", "weather <")
WITHOUT_THOUGHTS = "<|channel|>final<|message|>2 + 2 = 4."
FORMED = ANSWER_TEXT.replace("2 + 2 = 4.", "[4]")


@pytest.mark.parametrize(
    ("choice", "text", "allowed"),
    [
        ("required", None, [CALL_TEXT]),
        ("auto", None, [CALL_TEXT, ANSWER_TEXT, PREAMBLE_TEXT, WITHOUT_THOUGHTS]),
        ("none", Regex(r"\[4\]"), [FORMED]),
        ("auto", Regex(r"\[4\]"), [FORMED, CALL_TEXT]),
    ],
)
def test_whole_answers(
    choice: Literal["none", "auto", "required"], text: Node | None, allowed: list[str]
) -> None:
    dialect = Dialect(HARMONY.reasoning, HARMONY.tools)
    grammar = build_answer_grammar(
        dialect, TOOLS, choice=choice, text=text, prompt_end="<|start|>assistant"
    )
    answers = [CALL_TEXT, ANSWER_TEXT, PREAMBLE_TEXT, WITHOUT_THOUGHTS, FORMED]
    if text is None:
        answers.remove(FORMED)
    assert [each for each in answers if accepts(grammar, each, CONTROL)] == [
        each for each in answers if each in allowed
    ]
    assert not accepts(grammar, CALL_TEXT.replace("city", "town"), CONTROL)


def test_grammar_of_a_continued_message() -> None:
    dialect = Dialect(HARMONY.reasoning, HARMONY.tools)
    form = Regex("[0-9]")
    grammar = build_answer_grammar(dialect, (), choice="none", text=form, prompt_end="2 + 2 = ")
    assert accepts(grammar, "4", CONTROL)
    assert not accepts(grammar, "<|channel|>final<|message|>4", CONTROL)


def write_calls(calls: Sequence[WrittenCall]) -> str:
    header = "<|start|>assistant<|channel|>commentary to=functions."
    return "".join(f"{header}{each.name} json<|message|>{each.json}<|call|>" for each in calls)


def test_properties_of_every_dialect() -> None:
    check_tool_parser(HARMONY.tools, write=write_calls, num_chars=0)  # the next test times it


PIECES = [
    "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>",
    "assistant", "analysis", "commentary", "final", " to=functions.f", " to=", "json", "{}", "{",
    "Hello", " ", "\n", "<", "<|", "<|sta", "|>",
]  # fmt: skip


@given(
    pieces=st.lists(st.sampled_from(PIECES), max_size=24),
    cuts=st.lists(st.integers(1, 9), min_size=1),
    tools=st.sampled_from([(), (Tool("f"),)]),
)
def test_cuts_do_not_matter(pieces: list[str], cuts: list[int], tools: tuple[Tool, ...]) -> None:
    text = "".join(pieces)
    dialect = HARMONY.read(text, PROMPT_END, tools)
    parser = HarmonyParser(AnswerContext(tools, PROMPT_END))
    events = []
    rest, num_fed = text, 0
    while rest:
        length = cuts[num_fed % len(cuts)]
        events += parser.feed(rest[:length])
        rest, num_fed = rest[length:], num_fed + 1
    events += parser.finish()
    assert "".join(each.text for each in events if isinstance(each, Content)) == dialect.content
    thoughts = "".join(each.text for each in events if isinstance(each, Reasoning))
    assert thoughts == dialect.reasoning
    for call in dialect.calls:
        assert not call.is_complete or json.dumps(call.arguments) in text or call.arguments == {}


def test_speed() -> None:
    check_speed(HARMONY.tools, HARMONY.reasoning, num_chars=100_000)
