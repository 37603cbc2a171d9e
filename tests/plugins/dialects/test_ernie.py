"""ERNIE's dialect, as its model card describes it."""

from __future__ import annotations

import llmplug_ernie
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

ERNIE = PluginDialect(llmplug_ernie, "ernie45", "ernie45")
PROMPT_END = "<|im_start|>assistant\n<think>\n"

CALLS = """\
<tool_call>
{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}
</tool_call>
<tool_call>
{"name": "get_time", "arguments": {}}
</tool_call>"""
READ = [Call("get_weather", {"city": "Paris", "days": 2}), Call("get_time", {})]


def test_answer() -> None:
    text = "They ask.\n</think>\n\n\n<response>\nHello!\n</response>\n"
    assert ERNIE.read(text, PROMPT_END) == Answer("Hello!", "They ask.")
    assert ERNIE.read("They ask.\n</think>\nHello!", PROMPT_END) == Answer("Hello!", "They ask.")


def test_calls() -> None:
    text = f"They ask.\n</think>\n<response>\nI look.\n</response>\n\n\n{CALLS}\n"
    assert ERNIE.read(text, PROMPT_END) == Answer("I look.", "They ask.", READ)
    text = f"They ask.\n</think>\n\n\n{CALLS}\n"
    assert ERNIE.read(text, PROMPT_END) == Answer("", "They ask.", READ)


def test_forced_calls() -> None:
    assert ERNIE.allows(CALLS)
    assert not ERNIE.allows(CALLS, most=1)
    assert not ERNIE.allows(CALLS.replace("2", '"two"'))


def test_properties_of_every_dialect() -> None:
    ERNIE.check()
