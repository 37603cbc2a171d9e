"""GLM's dialect, as its templates write it, with and without line breaks."""

from __future__ import annotations

import pytest

import llmplug_glm
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

GLM = PluginDialect(llmplug_glm, "glm", "glm")

LINES = """\
<tool_call>get_weather
<arg_key>city</arg_key>
<arg_value>Paris</arg_value>
<arg_key>days</arg_key>
<arg_value>2</arg_value>
<arg_key>tags</arg_key>
<arg_value>["a", "b"]</arg_value>
</tool_call>
<tool_call>get_time
</tool_call>"""
DENSE = LINES.replace("\n", "")
CALLS = [
    Call("get_weather", {"city": "Paris", "days": 2, "tags": ["a", "b"]}),
    Call("get_time", {}),
]


@pytest.mark.parametrize("calls", [LINES, DENSE])
def test_calls(calls: str) -> None:
    expected = Answer("I look.", "They ask.", CALLS)
    assert GLM.read(f"\n<think>They ask.</think>\nI look.\n{calls}", "<|assistant|>") == expected
    assert GLM.read(f"They ask.</think>I look.{calls}", "<|assistant|><think>") == expected
    assert GLM.read(f"They ask.{calls}", "<|assistant|><think>") == Answer("", "They ask.", CALLS)


@pytest.mark.parametrize("calls", [LINES, DENSE])
def test_forced_calls(calls: str) -> None:
    assert GLM.allows(calls)
    assert not GLM.allows(calls.replace(">2<", ">two<"))
    assert not GLM.allows(calls.replace("get_time", "get_date"))


def test_no_thinking() -> None:
    assert GLM.read("\nHello!", "<|assistant|>\n<think></think>") == Answer("\nHello!")


def test_text_that_is_no_call() -> None:
    text = "Write <tool_call> before a name."
    assert GLM.read(text) == Answer(text)


def test_properties_of_every_dialect() -> None:
    GLM.check()
