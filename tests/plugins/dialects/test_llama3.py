"""The dialects of Llama 3 and 4, as their templates and cards write them."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken

import llmplug_llama3
from llmplug.chat.render import ChatRenderer
from llmplug.chat.round_trip import find_call_problem
from llmplug.chat.tokenizer import Tokenizer
from llmplug.testing import check_chat_template
from tests.chat.vocabularies import byte_level, files_of
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

LLAMA3 = PluginDialect(llmplug_llama3, "llama3")
LLAMA4 = PluginDialect(llmplug_llama3, "llama4")
PYTHONIC = PluginDialect(llmplug_llama3, "pythonic")
FUNCTIONARY = PluginDialect(llmplug_llama3, "functionary")

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


def test_tags() -> None:
    text = (
        'I look.\n<function=get_weather>{"city": "Paris", "days": 2}</function>'
        "<function=get_time>{}</function>"
    )
    assert FUNCTIONARY.read(text) == Answer("I look.", calls=CALLS)
    assert FUNCTIONARY.allows("<function=get_time>{}</function>")
    assert not FUNCTIONARY.allows("<function=get_date>{}</function>")


@pytest.mark.parametrize("dialect", [LLAMA3, LLAMA4, PYTHONIC, FUNCTIONARY])
def test_properties_of_every_dialect(dialect: PluginDialect) -> None:
    dialect.check()


def make_renderer() -> ChatRenderer:
    library = byte_level()
    tokens = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    library.add_tokens([AddedToken(text, special=True, normalized=False) for text in tokens])
    (spec,) = llmplug_llama3.llmplug_chat_templates()
    assert spec.fits(frozenset(tokens))
    assert not spec.fits(frozenset(tokens[:-1]))
    assert set(spec.stop_tokens) < set(tokens)
    return ChatRenderer(Tokenizer(files_of(library, bos_token=tokens[0])), spec.source)


def test_what_holds_for_every_template() -> None:
    (spec,) = llmplug_llama3.llmplug_chat_templates()
    check_chat_template(
        spec,
        tokens=["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    )


def test_template_writes_turns_as_published() -> None:
    messages = [
        {"role": "system", "content": "Be kind. "},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi!"},
    ]
    expected = (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello!<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHi!<|eot_id|>"
    )
    renderer = make_renderer()
    assert renderer.render_text(messages, add_generation_prompt=False) == expected
    head = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert renderer.render_text(messages, add_generation_prompt=True) == expected + head


def test_what_the_template_writes_is_read_back() -> None:
    renderer = make_renderer()
    (spec,) = llmplug_llama3.llmplug_chat_templates()
    assert LLAMA3.tools.detect(spec.source, {}, frozenset()).score > 0.5
    assert find_call_problem(renderer, None, LLAMA3.tools) is None
    call = {"id": "1", "function": {"name": "get_time", "arguments": "{}"}, "type": "function"}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "content": "now", "tool_call_id": "1"},
    ]
    tool = {"type": "function", "function": {"name": "get_time", "description": "tells the time"}}
    text = renderer.render_text(messages, add_generation_prompt=False, tools=[tool])
    assert text.count("tells the time") == 1
    answer = text.split("assistant<|end_header_id|>\n\n")[1].split("<|eot_id|>")[0]
    assert [each.name for each in LLAMA3.read(answer).calls] == ["get_time"] * 2
    assert "<|start_header_id|>ipython<|end_header_id|>\n\nnow<|eot_id|>" in text
