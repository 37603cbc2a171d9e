"""OLMo 3's dialect, as its template writes it."""

from __future__ import annotations

import llmplug_olmo3
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

OLMO3 = PluginDialect(llmplug_olmo3, "olmo3", "olmo3")

WRITTEN = """\
<function_calls>
get_weather(city='Paris', days=2, is_metric=true, tags=["a", "b"], place={"lat": null})
get_time()
</function_calls>"""
CALLS = [
    Call(
        "get_weather",
        {"city": "Paris", "days": 2, "is_metric": True, "tags": ["a", "b"], "place": {"lat": None}},
    ),
    Call("get_time", {}),
]


def test_calls() -> None:
    assert OLMO3.read(WRITTEN) == Answer(calls=CALLS)
    assert OLMO3.read(f"They ask.</think>{WRITTEN}", "<think>") == Answer("", "They ask.", CALLS)


def test_forced_calls() -> None:
    assert OLMO3.allows("<function_calls>\nget_time()\n</function_calls>")
    assert not OLMO3.allows("<function_calls>\nget_date()\n</function_calls>")


def test_properties_of_every_dialect() -> None:
    OLMO3.check()
