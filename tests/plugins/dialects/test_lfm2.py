"""The dialect of LFM2 and LFM2.5, as their templates write it."""

from __future__ import annotations

import llmplug_lfm2
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

LFM2 = PluginDialect(llmplug_lfm2, "lfm2", "lfm2")

WRITTEN = (
    "<|tool_call_start|>[get_weather(city='Martha\\'s', is_metric=True, tags=[], "
    "place={'lat': None}), get_time()]<|tool_call_end|>"
)
CALLS = [
    Call(
        "get_weather", {"city": "Martha's", "is_metric": True, "tags": [], "place": {"lat": None}}
    ),
    Call("get_time", {}),
]


def test_calls() -> None:
    assert LFM2.read(f"{WRITTEN}I look.") == Answer("I look.", calls=CALLS)
    text = f"<think>They ask.</think>{WRITTEN}"
    assert LFM2.read(text) == Answer("", "They ask.", CALLS)


def test_forced_calls() -> None:
    assert LFM2.allows("<|tool_call_start|>[get_time(), get_time()]<|tool_call_end|>")
    assert not LFM2.allows("<|tool_call_start|>[get_date()]<|tool_call_end|>")


def test_properties_of_every_dialect() -> None:
    LFM2.check()
