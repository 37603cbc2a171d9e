"""The dialects of Command R and Command A, as their templates write them."""

from __future__ import annotations

import pytest

import llmplug_command
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

COMMAND_R = PluginDialect(llmplug_command, "command_r")
COMMAND_A = PluginDialect(llmplug_command, "command_a", "command_a")

LIST = """[
    {
        "tool_name": "get_weather",
        "parameters": {
            "city": "Paris"
        }
    },
    {
        "tool_name": "get_time",
        "parameters": {}
    }
]"""
CALLS = [Call("get_weather", {"city": "Paris"}), Call("get_time", {})]


@pytest.mark.parametrize("start", ["Action: ```json\n", "Action:\n```json\n"])
@pytest.mark.parametrize("end", ["```", "\n```"])
def test_code_block(start: str, end: str) -> None:
    assert COMMAND_R.read(start + LIST + end) == Answer(calls=CALLS)
    text = f"I will look.\n{start}{LIST}{end}\n"
    assert COMMAND_R.read(text) == Answer("I will look.", calls=CALLS)


def test_tokens() -> None:
    calls = (
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", '
        '"parameters": {"city": "Paris"}},\n'
        '    {"tool_call_id": "1", "tool_name": "get_time", "parameters": {}}\n]<|END_ACTION|>'
    )
    text = f"<|START_THINKING|>I will look.<|END_THINKING|>{calls}"
    assert COMMAND_A.read(text) == Answer("", "I will look.", CALLS)
    assert COMMAND_A.read(f"I will look.<|END_THINKING|>{calls}", "<|START_THINKING|>") == Answer(
        "", "I will look.", CALLS
    )


def test_text_that_is_no_call() -> None:
    text = "Action: run!\n```json\n[1]\n```"
    assert COMMAND_R.read(text) == Answer(text)


def test_forced_calls() -> None:
    one = '[{"tool_name": "get_time", "parameters": {}}]'
    assert COMMAND_R.allows(f"Action: ```json\n{one}\n```")
    assert COMMAND_A.allows(f"<|START_ACTION|>{one}<|END_ACTION|>")
    assert not COMMAND_A.allows(f"<|START_ACTION|>{one}<|END_ACTION|>".replace("time", "date"))


@pytest.mark.parametrize("dialect", [COMMAND_R, COMMAND_A])
def test_properties_of_every_dialect(dialect: PluginDialect) -> None:
    dialect.check()
