"""Gemma's dialects, as its templates and its documentation write them."""

from __future__ import annotations

import pytest

import llmplug_gemma
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

GEMMA4 = PluginDialect(llmplug_gemma, "gemma4", "gemma4")
FUNCTION = PluginDialect(llmplug_gemma, "functiongemma")

GEMMA4_CALL = (
    '<|tool_call>call:get_weather{city:<|"|>Paris, "XV" {a}<|"|>,days:2,is_metric:true,'
    'place:{lat:48.9},tags:[<|"|>a<|"|>,<|"|>b<|"|>]}<tool_call|>'
)
FUNCTION_CALL = (
    GEMMA4_CALL.replace('<|"|>', "<escape>")
    .replace("<|tool_call>", "<start_function_call>")
    .replace("<tool_call|>", "<end_function_call>")
)
READ = Call(
    "get_weather",
    {
        "city": 'Paris, "XV" {a}',
        "days": 2,
        "is_metric": True,
        "place": {"lat": 48.9},
        "tags": ["a", "b"],
    },
)


@pytest.mark.parametrize(("dialect", "call"), [(GEMMA4, GEMMA4_CALL), (FUNCTION, FUNCTION_CALL)])
def test_calls(dialect: PluginDialect, call: str) -> None:
    assert dialect.read(call) == Answer(calls=[READ])
    assert dialect.read(f"I look. {call}{call}") == Answer("I look.", calls=[READ, READ])


def test_thinking() -> None:
    text = f"<|channel>thought\nThey ask.\n<channel|>I look.{GEMMA4_CALL}"
    assert GEMMA4.read(text) == Answer("I look.", "They ask.", [READ])
    text = "<|channel>thought\n<channel|>Hello!"
    assert GEMMA4.read(text) == Answer("Hello!")


def test_calls_without_arguments() -> None:
    text = "<|tool_call>call:get_time{}<tool_call|>"
    assert GEMMA4.read(text) == Answer(calls=[Call("get_time", {})])


@pytest.mark.parametrize(("dialect", "call"), [(GEMMA4, GEMMA4_CALL), (FUNCTION, FUNCTION_CALL)])
def test_forced_calls(dialect: PluginDialect, call: str) -> None:
    in_order = call.replace(",place:{lat:48.9}", "").replace("]}", "],place:{lat:48.9}}")
    assert dialect.allows(in_order)
    assert not dialect.allows(in_order.replace("days:2", "days:true"))
    assert not dialect.allows(in_order * 2, most=1)


@pytest.mark.parametrize("dialect", [GEMMA4, FUNCTION])
def test_properties_of_every_dialect(dialect: PluginDialect) -> None:
    dialect.check()
