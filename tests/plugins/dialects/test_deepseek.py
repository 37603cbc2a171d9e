"""DeepSeek's dialects, as its templates and its reference code write them."""

from __future__ import annotations

import pytest

import llmplug_deepseek
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

V3 = PluginDialect(llmplug_deepseek, "deepseek_v3", "deepseek")
V31 = PluginDialect(llmplug_deepseek, "deepseek_v31", "deepseek")
V32 = PluginDialect(llmplug_deepseek, "deepseek_v32", "deepseek")
V41 = PluginDialect(llmplug_deepseek, "deepseek_v41", "deepseek")
V4 = PluginDialect(llmplug_deepseek, "deepseek_v4", "deepseek")

V3_CALLS = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
    '{"city": "Paris", "days": 2}\n```<｜tool▁call▁end｜>\n'
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{}\n```<｜tool▁call▁end｜>"
    "<｜tool▁calls▁end｜>"
)
V31_CALLS = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
    '{"city": "Paris", "days": 2}<｜tool▁call▁end｜>'
    "<｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
V32_CALLS = """\
<｜DSML｜function_calls>
<｜DSML｜invoke name="get_weather">
<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>
<｜DSML｜parameter name="days" string="false">2</｜DSML｜parameter>
</｜DSML｜invoke>
<｜DSML｜invoke name="get_time">
</｜DSML｜invoke>
</｜DSML｜function_calls>"""
V41_CALLS = V32_CALLS.replace("function_calls", " calls").replace("｜invoke", "｜ invoke")
V41_CALLS = V41_CALLS.replace("｜parameter", "｜ parameter")
V4_CALLS = V32_CALLS.replace("function_calls", "tool_calls")
WRITTEN = [
    (V3, V3_CALLS, "<｜Assistant｜><think>\n"),
    (V31, V31_CALLS, "<｜Assistant｜><think>"),
    (V32, V32_CALLS, "<｜Assistant｜><think>"),
    (V4, V4_CALLS, "<｜Assistant｜><think>"),
    (V41, V41_CALLS, "<｜Assistant｜><think>"),
]
CALLS = [Call("get_weather", {"city": "Paris", "days": 2}), Call("get_time", {})]


@pytest.mark.parametrize(("dialect", "calls", "prompt_end"), WRITTEN)
def test_calls(dialect: PluginDialect, calls: str, prompt_end: str) -> None:
    text = f"They ask.</think>\n\nI look.\n\n{calls}"
    expected = Answer("I look.", "They ask.", CALLS)
    assert dialect.read(text, prompt_end) == expected
    assert dialect.read(f"<think>\n{text}", "<｜Assistant｜>") == expected


@pytest.mark.parametrize(("dialect", "calls", "prompt_end"), WRITTEN)
def test_calls_end_thinking(dialect: PluginDialect, calls: str, prompt_end: str) -> None:
    assert dialect.read(f"They ask.\n{calls}", prompt_end) == Answer("", "They ask.", CALLS)


@pytest.mark.parametrize(("dialect", "calls", "prompt_end"), WRITTEN)
def test_forced_calls(dialect: PluginDialect, calls: str, prompt_end: str) -> None:
    assert dialect.allows(calls)
    assert not dialect.allows(calls, most=1)
    assert not dialect.allows(calls.replace("get_time", "get_date"))
    assert not dialect.allows(calls.replace("2", '"two"'))


def test_no_thinking() -> None:
    assert V31.read("Hello!", "<｜Assistant｜></think>") == Answer("Hello!")


def test_strings_are_told() -> None:
    text = V32_CALLS.replace(">2<", ">[1, 2]<").replace(">Paris<", ">true<")
    assert V32.read(text).calls[0].arguments == {"city": "true", "days": [1, 2]}
    assert V4.read(text) == V32.read(text)


@pytest.mark.parametrize("dialect", [V3, V31, V32, V4, V41])
def test_properties_of_every_dialect(dialect: PluginDialect) -> None:
    dialect.check()
