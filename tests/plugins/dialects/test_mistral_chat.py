"""The dialects of Mistral's models, as mistral-common and their templates write them."""

from __future__ import annotations

import re

import pytest

import llmplug_mistral_chat
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

V3 = PluginDialect(llmplug_mistral_chat, "mistral_v3")
V11 = PluginDialect(llmplug_mistral_chat, "mistral", "mistral")
ARGUMENTS = {"city": "Paris [ARGS]", "days": 2}


@pytest.mark.parametrize("space", ["", " "])
def test_list(space: str) -> None:
    text = (
        f'I look.[TOOL_CALLS]{space}[{{"name": "get_weather", "arguments": '
        '{"city": "Paris [ARGS]", "days": 2}, "id": "abcdefghi"}, '
        '{"name": "get_time", "arguments": {}, "id": "123456789"}]'
    )
    expected = [Call("get_weather", ARGUMENTS), Call("get_time", {})]
    assert V3.read(text) == Answer("I look.", calls=expected)


def test_named_calls() -> None:
    text = (
        '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris [ARGS]", "days": 2}'
        "[TOOL_CALLS]get_time[ARGS]{}"
    )
    expected = [Call("get_weather", ARGUMENTS), Call("get_time", {})]
    assert V11.read(text) == Answer(calls=expected)
    thought = f"[THINK]They ask.[/THINK]I look.{text}"
    assert V11.read(thought, "[/INST]") == Answer("I look.", "They ask.", expected)


def test_ids_of_calls() -> None:
    text = "[TOOL_CALLS]get_time[CALL_ID]abcDEF123[ARGS]{}[TOOL_CALLS]get_time[CALL_ID]x[ARGS]{}"
    assert [call.id for call in V11.read(text).calls] == ["abcDEF123", "x"]
    for dialect in (V3, V11):
        assert dialect.tools.make_id is not None
        made = {dialect.tools.make_id("get_time", 0) for _ in range(50)}
        assert len(made) == 50
        assert all(re.fullmatch("[a-zA-Z0-9]{9}", each) for each in made)


def test_forced_calls() -> None:
    assert V3.allows('[TOOL_CALLS][{"name": "get_time", "arguments": {}}]')
    assert V11.allows("[TOOL_CALLS]get_time[ARGS]{}[TOOL_CALLS]get_time[ARGS]{}")
    assert not V11.allows("[TOOL_CALLS]get_time[ARGS]{}[TOOL_CALLS]get_time[ARGS]{}", most=1)
    assert not V11.allows("[TOOL_CALLS]get_date[ARGS]{}")


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({"[TOOL_CALLS]", "[ARGS]", "[INST]"}, V11),
        ({"[TOOL_CALLS]", "[INST]"}, V3),
        ({"[INST]"}, None),
    ],
)
def test_found_by_vocabulary_or_template(tokens: set[str], expected: PluginDialect | None) -> None:
    for dialect in (V3, V11):
        by_vocabulary = dialect.tools.detect("", {}, frozenset(tokens))
        by_template = dialect.tools.detect(" ".join(tokens), {}, frozenset({"[TOOL_CALLS]"}))
        assert by_vocabulary.score == by_template.score == (0.9 if dialect is expected else 0)


@pytest.mark.parametrize("dialect", [V3, V11])
def test_properties_of_every_dialect(dialect: PluginDialect) -> None:
    dialect.check()
