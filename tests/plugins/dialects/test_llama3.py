"""The dialects of Llama 3 and 4, as their templates and cards write them."""

from __future__ import annotations

import pytest

import llmplug_llama3
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

LLAMA3 = PluginDialect(llmplug_llama3, "llama3")
LLAMA4 = PluginDialect(llmplug_llama3, "llama4")
PYTHONIC = PluginDialect(llmplug_llama3, "pythonic")

JSON = '{"name": "get_weather", "parameters": {"city": "Paris", "days": 2}}'
PYTHON = "[get_weather(city='Paris', days=2), get_time()]"
CALLS = [Call("get_weather", {"city": "Paris", "days": 2}), Call("get_time", {})]


@pytest.mark.parametrize("dialect", [LLAMA3, LLAMA4])
def test_json(dialect: PluginDialect) -> None:
    more = '{"name": "get_time", "parameters": {}}'
    assert dialect.read(JSON) == Answer(calls=CALLS[:1])
    assert dialect.read(f"{JSON}; {more}") == Answer(calls=CALLS)
    assert dialect.read(f"\n\n{JSON}\n{more}") == Answer(calls=CALLS)


def test_json_behind_a_token() -> None:
    assert LLAMA3.read(f"I look. <|python_tag|>{JSON}") == Answer("I look.", calls=CALLS[:1])


@pytest.mark.parametrize("dialect", [LLAMA3, LLAMA4, PYTHONIC])
def test_python(dialect: PluginDialect) -> None:
    assert dialect.read(PYTHON) == Answer(calls=CALLS)


@pytest.mark.parametrize("dialect", [LLAMA3, LLAMA4, PYTHONIC])
@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Paris", "parameters": {}}',
        f"Write {JSON}",
        "[1, 2]",
        "[Paris](https://example.org)",
        '{"city": "Paris"}',
        '<|python_tag|>brave_search.call(query="Paris")',
    ],
)
def test_text_that_is_no_call(dialect: PluginDialect, text: str) -> None:
    assert dialect.read(text) == Answer(text)


def test_forced_calls() -> None:
    assert LLAMA3.allows(JSON)
    assert LLAMA4.allows(JSON)
    assert not LLAMA3.allows(JSON.replace("2", '"two"'))
    assert PYTHONIC.allows('[get_weather(city="Paris", days=2)]')
    assert not PYTHONIC.allows("[get_date()]")


@pytest.mark.parametrize("dialect", [LLAMA3, LLAMA4, PYTHONIC])
def test_properties_of_every_dialect(dialect: PluginDialect) -> None:
    dialect.check()
