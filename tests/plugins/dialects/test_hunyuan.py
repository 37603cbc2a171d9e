"""Hunyuan's dialects, as their templates write them."""

from __future__ import annotations

import re

import pytest

import llmplug_hunyuan
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

A13B = PluginDialect(llmplug_hunyuan, "hunyuan", "hunyuan")
HUNYUAN3 = PluginDialect(llmplug_hunyuan, "hunyuan3", "hunyuan3")
HUNYUAN4 = PluginDialect(llmplug_hunyuan, "hunyuan4", "hunyuan3")
HUNYUAN4_OPEN = PluginDialect(llmplug_hunyuan, "hunyuan4_open", "hunyuan3_open")
HUNYUAN3_OPEN = PluginDialect(llmplug_hunyuan, "hunyuan3_open", "hunyuan3_open")

LIST = (
    '<tool_calls>[{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}, '
    '{"name": "get_time", "arguments": {}}]</tool_calls>'
)
TAGS = """\
<tool_calls>
<tool_call>get_weather<tool_sep>
<arg_key>city</arg_key>
<arg_value>Paris</arg_value>
<arg_key>days</arg_key>
<arg_value>2</arg_value>
</tool_call>
<tool_call>get_time<tool_sep>
</tool_call>
</tool_calls>"""
CALLS = [Call("get_weather", {"city": "Paris", "days": 2}), Call("get_time", {})]


def test_list() -> None:
    assert A13B.read(LIST, "<think>\n\n</think>\n") == Answer(calls=CALLS)
    text = f"<think>\nThey ask.\n</think>\n<answer>\n{LIST}\n</answer>"
    assert A13B.read(text) == Answer("", "They ask.", CALLS)


def test_answer_stands_in_tags() -> None:
    text = "<think>\nThey greet.\n</think>\n<answer>\nHello <b>you</b>!\n</answer>"
    assert A13B.read(text) == Answer("Hello <b>you</b>!", "They greet.")
    assert A13B.read("<answer>\nHello!\n</answer>", "<think>\n\n</think>\n") == Answer("Hello!")
    assert A13B.read("A tag: <answer> </answer>") == Answer("A tag: <answer> </answer>")


@pytest.mark.parametrize("calls", [TAGS, TAGS.replace("\n", "")])
def test_tags(calls: str) -> None:
    assert HUNYUAN3.read(f"They ask.</think>I look.{calls}", "<think>") == Answer(
        "I look.", "They ask.", CALLS
    )
    assert HUNYUAN3.read(calls, "<think></think>") == Answer(calls=CALLS)
    assert HUNYUAN3.allows(calls)
    assert not HUNYUAN3.allows(calls, most=1)


def test_no_separator() -> None:
    text = TAGS.replace("<tool_sep>", "").replace("\n", "")
    assert HUNYUAN4.read(f"I look.{text}", "<think></think>") == Answer("I look.", calls=CALLS)
    assert HUNYUAN4.allows(text)


def test_tags_with_a_suffix() -> None:
    text = re.sub(r"(</?\w+)>", r"\1:opensource>", f"They ask.</think>I look.{TAGS}")
    found = HUNYUAN3_OPEN.read(text, "<｜hy_Assistant:opensource｜><think:opensource>")
    assert found == Answer("I look.", "They ask.", CALLS)
    assert HUNYUAN3_OPEN.allows(text[text.index("<tool_calls") :])
    text = text.replace("<tool_sep:opensource>", "").replace("\n", "")
    assert HUNYUAN4_OPEN.read(text, "<think:opensource>") == found


@pytest.mark.parametrize("dialect", [A13B, HUNYUAN3, HUNYUAN3_OPEN, HUNYUAN4])
def test_properties_of_every_dialect(dialect: PluginDialect) -> None:
    dialect.check()
