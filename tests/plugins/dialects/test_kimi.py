"""Kimi K2's dialect, as its template writes it."""

from __future__ import annotations

import re
from dataclasses import replace

from tokenizers import AddedToken

import llmplug_kimi
from llmplug.chat.render import ChatRenderer
from llmplug.chat.round_trip import find_call_problem
from llmplug.chat.tokenizer import Tokenizer
from tests.chat.vocabularies import byte_level, files_of
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

KIMI = PluginDialect(llmplug_kimi, "kimi_k2", "kimi_k2")

CALLS = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
    '<|tool_call_argument_begin|>{"city": "Paris", "days": 2}<|tool_call_end|>'
    "<|tool_call_begin|>functions.get_time:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
    "<|tool_calls_section_end|>"
)
CALL_TOKENS = [*re.findall(r"<\|\w+\|>", CALLS), "<|im_user|>", "<|im_assistant|>"]
READ = [
    Call("get_weather", {"city": "Paris", "days": 2}, "functions.get_weather:0"),
    Call("get_time", {}, "functions.get_time:1"),
]


def test_calls() -> None:
    expected = Answer("I look.", "They ask.", READ)
    assert KIMI.read(f"<think>They ask.</think>I look.{CALLS}") == expected
    assert KIMI.read(f"<think>They ask.{CALLS}") == Answer("", "They ask.", READ)


def test_names() -> None:
    text = CALLS.replace("functions.get_weather", "weather.get").replace(
        "functions.get_time", "a:b"
    )
    assert [(call.name, call.id) for call in KIMI.read(text).calls] == [
        ("weather.get", "weather.get:0"),
        ("a:b", "a:b:1"),
    ]


def test_ids_are_made_as_the_model_writes_them() -> None:
    assert KIMI.tools.make_id is not None
    made = [KIMI.tools.make_id(call.name, index) for index, call in enumerate(READ)]
    assert made == [call.id for call in READ]


# What a conversation looks like to the model, in as few words as will do.
TEMPLATE = """\
{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for m in messages %}{{ '<|im_' ~ m.role ~ '|>' ~ (m.content or '') }}
    {%- if m.tool_calls %}{{ '<|tool_calls_section_begin|>' }}
        {%- for call in m.tool_calls %}
            {{- '<|tool_call_begin|>' ~ call.id ~ '<|tool_call_argument_begin|>' }}
            {{- call.function.arguments | tojson ~ '<|tool_call_end|>' }}
        {%- endfor %}{{ '<|tool_calls_section_end|>' }}
    {%- endif %}{{ '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_assistant|>' }}{% endif %}"""


def test_what_a_template_writes_is_read_back() -> None:
    library = byte_level()
    library.add_tokens([AddedToken(text, special=True) for text in CALL_TOKENS])
    renderer = ChatRenderer(Tokenizer(files_of(library)), TEMPLATE)
    assert find_call_problem(renderer, KIMI.reasoning, KIMI.tools) is None
    without_ids = replace(KIMI.tools, make_id=None)
    assert "no calls" in str(find_call_problem(renderer, KIMI.reasoning, without_ids))


def test_forced_calls() -> None:
    assert KIMI.allows(CALLS)
    assert not KIMI.allows(CALLS, most=1)
    assert not KIMI.allows(CALLS.replace("get_time:1", "get_time"))
    assert not KIMI.allows(CALLS.replace("get_time", "get_date"))


def test_properties_of_every_dialect() -> None:
    KIMI.check()
