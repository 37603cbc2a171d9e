"""The dialects of Phi-4-mini, as the template of its card and its tokens have it."""

from __future__ import annotations

import pytest

import llmplug_phi4
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

WORD = PluginDialect(llmplug_phi4, "phi4")
TOKENS = PluginDialect(llmplug_phi4, "phi4_tokens")
LIST = (
    '[{"name": "get_weather", "arguments": {"city": "Paris"}}, '
    '{"name": "get_time", "arguments": {}}]'
)
CALLS = [Call("get_weather", {"city": "Paris"}), Call("get_time", {})]


@pytest.mark.parametrize("dialect", [WORD, TOKENS])
def test_calls(dialect: PluginDialect) -> None:
    assert dialect.read(f"functools{LIST}") == Answer(calls=CALLS)
    assert dialect.read(f"I look.\nfunctools {LIST}") == Answer("I look.", calls=CALLS)
    assert dialect.read(f"<|tool_call|>{LIST}<|/tool_call|>") == Answer(calls=CALLS)


def test_text_that_is_no_call() -> None:
    text = "import functools\n\n@functools.cache\ndef f(): return functools[0]"
    assert WORD.read(text) == Answer(text)


def test_forced_calls() -> None:
    assert WORD.allows(f"functools{LIST}")
    assert not WORD.allows(f"functools{LIST}", most=1)
    assert TOKENS.allows(f"<|tool_call|>{LIST}<|/tool_call|>")


@pytest.mark.parametrize("dialect", [WORD, TOKENS])
def test_properties_of_every_dialect(dialect: PluginDialect) -> None:
    dialect.check()
