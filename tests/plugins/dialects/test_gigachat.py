"""GigaChat 3.5's dialect, as its template writes it."""

from __future__ import annotations

import llmplug_gigachat
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

GIGACHAT = PluginDialect(llmplug_gigachat, "gigachat35", "gigachat35")

CALLS = """\
<｜GCML｜tool_calls>
<｜GCML｜invoke name="get_weather">
<｜GCML｜parameter name="city" string="true">12</｜GCML｜parameter>
<｜GCML｜parameter name="tags" string="false">["a"]</｜GCML｜parameter>
</｜GCML｜invoke>
<｜GCML｜invoke name="get_time">
</｜GCML｜invoke>
</｜GCML｜tool_calls>"""
READ = [Call("get_weather", {"city": "12", "tags": ["a"]}), Call("get_time", {})]


def test_calls() -> None:
    text = f"They ask.</think>\n\nI look.\n\n{CALLS}"
    prompt_end = "assistant<|role_sep|>\n<think>"
    assert GIGACHAT.read(text, prompt_end) == Answer("I look.", "They ask.", READ)
    assert GIGACHAT.read(CALLS, "assistant<|role_sep|>\n") == Answer(calls=READ)


def test_forced_calls() -> None:
    assert GIGACHAT.allows(CALLS)
    assert not GIGACHAT.allows(CALLS, most=1)
    assert not GIGACHAT.allows(CALLS.replace('"true">12', '"false">12'))


def test_properties_of_every_dialect() -> None:
    GIGACHAT.check()
