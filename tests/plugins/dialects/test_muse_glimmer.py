"""Muse Glimmer's dialect, as its template writes it."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmplug_muse_glimmer
from llmplug.chat.call_grammar import build_answer_grammar
from llmplug.chat.channels import Dialect
from llmplug.chat.marker_tokens import find_markers
from llmplug.dialect import Tool
from llmplug.grammar import Node, Regex
from llmplug.testing.dialect_properties import check_forced_calls, check_reading
from llmplug.testing.reading_speed import check_speed
from llmplug_muse_glimmer.header import MAX_HEADER
from tests.plugins.dialects.reading import TOOLS, Answer, Call, PluginDialect, accepts

MUSE = PluginDialect(llmplug_muse_glimmer, "muse_glimmer", "muse_glimmer")
PROMPT_END = "<|start|>assistant"

THOUGHT = " to=self<|message|>They ask.<|eom|>"
CALLS = """\
<atem:function_calls>
<atem:invoke name="get_weather">
<atem:parameter name="city"> Paris</atem:parameter>
<atem:parameter name="days">2</atem:parameter>
<atem:parameter name="tags">["a"]</atem:parameter>
</atem:invoke>
</atem:function_calls>"""
CALL = f" to=get_weather<|message|>{CALLS}"
READ = Call("get_weather", {"city": " Paris", "days": 2, "tags": ["a"]})


def test_answer() -> None:
    text = " to=user<|message|>Hello! 1 < 2<|eot|>"
    assert MUSE.read(text, PROMPT_END) == Answer("Hello! 1 < 2")
    text = f"{THOUGHT}{PROMPT_END}{text}"
    assert MUSE.read(text, PROMPT_END) == Answer("Hello! 1 < 2", "They ask.")
    assert MUSE.read(text, PROMPT_END, tools=()) == Answer("Hello! 1 < 2", "They ask.")


def test_calls() -> None:
    text = f"{THOUGHT}{PROMPT_END}{CALL}<|eom|>{PROMPT_END}{CALL}<|eot|>"
    assert MUSE.read(text, PROMPT_END) == Answer("", "They ask.", [READ, READ])


def test_special_tokens_of_headers_are_seen() -> None:
    assert MUSE.reasoning is not None
    assert {"<|start|>", "<|message|>", "<|eom|>", "<|eot|>"} <= set(find_markers(MUSE.reasoning))


def test_continued_message() -> None:
    prompt_end = f"{PROMPT_END}{THOUGHT}{PROMPT_END} to=user<|message|>Hel"
    assert MUSE.read("lo!<|eot|>", prompt_end) == Answer("lo!")
    prompt_end = f"{PROMPT_END} to=self<|message|>They"
    assert MUSE.read(" ask.<|eom|>", prompt_end) == Answer("", " ask.")


def test_text_without_header() -> None:
    assert MUSE.read("Hello! a <| b", PROMPT_END) == Answer("Hello! a <| b")
    too_long = "to=" + "a" * MAX_HEADER
    assert MUSE.read(f"{too_long}<|message|>b") == Answer(f"{too_long}<|message|>b")
    assert MUSE.read("to=be <b>") == Answer("to=be <b>")
    assert MUSE.read("to=<b><|message|>a") == Answer("to=<b><|message|>a")
    assert MUSE.read("to=self<|mess") == Answer("")


def test_forced_calls() -> None:
    assert MUSE.allows(CALLS)
    assert MUSE.read(CALLS, PROMPT_END) == Answer(calls=[READ])
    assert not MUSE.allows(CALLS.replace(">2<", ">two<"))


CONTROL = ["<|start|>", "<|message|>", "<|eom|>", "<|eot|>"]
WITH_CALL = f"{THOUGHT}{PROMPT_END}{CALL}"
WITH_TEXT = f"{THOUGHT}{PROMPT_END} to=user<|message|>4"


@pytest.mark.parametrize(
    ("choice", "text", "allowed"),
    [
        ("required", None, [WITH_CALL, CALL]),
        ("auto", None, [WITH_CALL, CALL, WITH_TEXT]),
        ("none", Regex("[0-9]"), [WITH_TEXT]),
        ("none", Regex("[a-z]"), []),
    ],
)
def test_whole_answers(
    choice: Literal["none", "auto", "required"], text: Node | None, allowed: list[str]
) -> None:
    dialect = Dialect(MUSE.reasoning, MUSE.tools)
    grammar = build_answer_grammar(dialect, TOOLS, choice=choice, text=text, prompt_end=PROMPT_END)
    answers = [WITH_CALL, CALL, WITH_TEXT]
    assert [each for each in answers if accepts(grammar, each, CONTROL)] == allowed


PIECES = [
    "<|start|>", "<|message|>", "<|eom|>", "<|eot|>", "assistant", " to=self", " to=user", " to=f",
    "to=", "Hello", " ", "\n", "<", "<|", "<|eo", "|>", *CALLS.split("\n"),
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=24), st.sampled_from([(), (Tool("f"),)]))
def test_cuts_do_not_matter(pieces: list[str], tools: tuple[Tool, ...]) -> None:
    MUSE.read("".join(pieces), PROMPT_END, tools)  # in pieces of several lengths


def test_properties_of_every_dialect() -> None:
    """But that headers which break off come out as text."""
    check_reading(MUSE.tools, MUSE.reasoning)
    check_forced_calls(MUSE.tools, MUSE.reasoning)


def test_header_that_breaks_off() -> None:
    assert MUSE.read(f"{THOUGHT}{PROMPT_END} to=us", PROMPT_END) == Answer("", "They ask.")


def test_speed() -> None:
    check_speed(MUSE.tools, MUSE.reasoning, num_chars=50_000, heads=("<|eom|>", "<|eom|>to="))
