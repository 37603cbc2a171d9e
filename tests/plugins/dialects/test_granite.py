"""The dialects of Granite 3 and 4, as their templates write them."""

from __future__ import annotations

import pytest

import llmplug_granite
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

GRANITE3 = PluginDialect(llmplug_granite, "granite3", "granite32")
GRANITE33 = PluginDialect(llmplug_granite, "granite3", "granite33")
GRANITE4 = PluginDialect(llmplug_granite, "granite4")
GRANITE_20B = PluginDialect(llmplug_granite, "granite_20b_fc")
CALLS = [Call("get_weather", {"city": "Paris"}), Call("get_time", {})]


@pytest.mark.parametrize("marker", ["<|tool_call|>", "<tool_call>", "<|tool_call|> "])
def test_list(marker: str) -> None:
    text = (
        f'{marker}[{{"arguments": {{"city": "Paris"}}, "name": "get_weather"}},\n'
        ' {"name": "get_time", "arguments": {}}]'
    )
    assert GRANITE3.read(text) == Answer(calls=CALLS)


def test_objects() -> None:
    text = """I look.
<tool_call>
{"name": "get_weather", "arguments": {"city": "Paris"}}
</tool_call>
<tool_call>
{"name": "get_time", "arguments": {}}
</tool_call>"""
    assert GRANITE4.read(text) == Answer("I look.", calls=CALLS)
    assert GRANITE4.allows(text.removeprefix("I look.\n"))


def test_objects_behind_a_tag() -> None:
    text = (
        '<function_call> {"name": "get_weather", "arguments": {"city": "Paris"}}\n'
        '<function_call> {"name": "get_time", "arguments": {}}'
    )
    assert GRANITE_20B.read(text) == Answer(calls=CALLS)
    assert GRANITE_20B.allows(text)


def test_thinking_in_phrases() -> None:
    text = "Here is my thought process:\nThey greet.\n\nHere is my response:\nHello!"
    assert GRANITE3.read(text) == Answer("Hello!", "They greet.")
    assert GRANITE3.read("Here is my thought.") == Answer("Here is my thought.")


def test_thinking_in_tags() -> None:
    text = "<think>They greet.</think><response>Hello <b>you</b>!</response>"
    assert GRANITE33.read(text) == Answer("Hello <b>you</b>!", "They greet.")
    assert GRANITE33.read("A tag: </response>.") == Answer("A tag: </response>.")


def test_forced_calls() -> None:
    assert GRANITE3.allows('<|tool_call|>[{"name": "get_time", "arguments": {}}]')
    assert not GRANITE3.allows('<|tool_call|>[{"name": "get_date", "arguments": {}}]')


@pytest.mark.parametrize("dialect", [GRANITE3, GRANITE33, GRANITE4, GRANITE_20B])
def test_properties_of_every_dialect(dialect: PluginDialect) -> None:
    dialect.check()
