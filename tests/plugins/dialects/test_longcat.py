"""LongCat's dialects, as its model cards and templates write them."""

from __future__ import annotations

import pytest

import llmplug_longcat
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

FLASH = PluginDialect(llmplug_longcat, "longcat", "longcat")
LITE = PluginDialect(llmplug_longcat, "longcat_lite", "longcat")

IN_JSON = """\
<longcat_tool_call>
{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}
</longcat_tool_call>
<longcat_tool_call>
{"name": "get_time", "arguments": {}}
</longcat_tool_call>"""
IN_TAGS = """\
<longcat_tool_call>get_weather
<longcat_arg_key>city</longcat_arg_key>
<longcat_arg_value>Paris</longcat_arg_value>
<longcat_arg_key>days</longcat_arg_key>
<longcat_arg_value>2</longcat_arg_value>
</longcat_tool_call>
<longcat_tool_call>get_time
</longcat_tool_call>"""
WRITTEN = [(FLASH, IN_JSON), (LITE, IN_TAGS)]
READ = [Call("get_weather", {"city": "Paris", "days": 2}), Call("get_time", {})]


@pytest.mark.parametrize(("dialect", "calls"), WRITTEN)
def test_calls(dialect: PluginDialect, calls: str) -> None:
    text = f"They ask.\n</longcat_think>\nI look.\n{calls}"
    prompt_end = " /think_on <longcat_assistant><longcat_think>\n"
    assert dialect.read(text, prompt_end) == Answer("I look.", "They ask.", READ)


@pytest.mark.parametrize(("dialect", "calls"), WRITTEN)
def test_forced_calls(dialect: PluginDialect, calls: str) -> None:
    assert dialect.allows(calls)
    assert not dialect.allows(calls, most=1)
    assert not dialect.allows(calls.replace("get_time", "get_date"))


@pytest.mark.parametrize("dialect", [FLASH, LITE])
def test_properties_of_every_dialect(dialect: PluginDialect) -> None:
    dialect.check()
