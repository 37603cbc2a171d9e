"""InternLM's dialect, as its card and templates write it."""

from __future__ import annotations

import pytest

import llmplug_internlm
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

INTERNLM = PluginDialect(llmplug_internlm, "internlm")
CALLS = [Call("get_weather", {"city": "Paris"})]


@pytest.mark.parametrize("key", ["parameters", "arguments"])
@pytest.mark.parametrize("space", ["", "\n"])
def test_calls(key: str, space: str) -> None:
    text = (
        f"I look.<|action_start|><|plugin|>{space}"
        f'{{"name": "get_weather", "{key}": {{"city": "Paris"}}}}<|action_end|>'
    )
    assert INTERNLM.read(text) == Answer("I look.", calls=CALLS)


def test_code_is_no_call() -> None:
    text = "<|action_start|><|interpreter|>\nprint(1)<|action_end|>"
    assert INTERNLM.read(text) == Answer(text)


def test_forced_calls() -> None:
    text = '<|action_start|><|plugin|>\n{"name": "get_time", "parameters": {}}<|action_end|>'
    assert INTERNLM.allows(text)
    assert not INTERNLM.allows(text.replace("get_time", "get_date"))


def test_properties_of_every_dialect() -> None:
    INTERNLM.check()
