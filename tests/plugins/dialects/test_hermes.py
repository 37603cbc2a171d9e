"""The dialect of Hermes, Qwen 2.5 and Qwen3, as their templates write it."""

from __future__ import annotations

import llmplug_hermes
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

HERMES = PluginDialect(llmplug_hermes, "hermes", "hermes")

WRITTEN = """\
<tool_call>
{"name": "get_weather", "arguments": {"city": "Paris </tool_call>", "days": 2}}
</tool_call>
<tool_call>
{"arguments": {}, "name": "get_time"}
</tool_call>"""
CALLS = [Call("get_weather", {"city": "Paris </tool_call>", "days": 2}), Call("get_time", {})]


def test_calls() -> None:
    text = f"<think>\nThey ask.\n</think>\n\nI look.\n{WRITTEN}"
    assert HERMES.read(text, "<|im_start|>assistant\n") == Answer("I look.", "They ask.", CALLS)
    assert HERMES.read(f"They ask.\n{WRITTEN}", "<think>\n") == Answer("", "They ask.", CALLS)


def test_text_that_is_no_call() -> None:
    text = "Write <tool_call> and a JSON object."
    assert HERMES.read(text) == Answer(text)
    assert HERMES.read("Hello!", "<think>\n\n</think>\n\n") == Answer("Hello!")


def test_forced_calls() -> None:
    written = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'
    assert HERMES.allows(written)
    assert not HERMES.allows(written.replace("get_time", "get_date"))
    assert not HERMES.allows(f"{written}\n{written}", most=1)


def test_properties_of_every_dialect() -> None:
    HERMES.check()
