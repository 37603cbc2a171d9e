"""Kimi K3's dialect, as its encoder writes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import pytest

import llmplug_kimi
from llmplug.chat.call_grammar import build_answer_grammar
from llmplug.chat.channels import Dialect
from llmplug.dialect import Tool
from llmplug.grammar import Node, Regex
from llmplug.testing.answers import read
from llmplug.testing.call_writing import Call as WrittenCall
from llmplug.testing.reading_speed import check_speed
from tests.plugins.dialects.bundled import choose_for, names_of
from tests.plugins.dialects.reading import TOOLS, Answer, Call, PluginDialect, accepts

KIMI = PluginDialect(llmplug_kimi, "kimi_k3", "kimi_k3")
HEAD = '<|open|>message role="assistant"<|sep|>'
PROMPT_END = f"{HEAD}<|open|>think<|sep|>"

THOUGHT = "They ask.<|close|>think<|sep|>"
RESPONSE = "<|open|>response<|sep|>I look.<|close|>response<|sep|>"
EMPTY = "<|open|>response<|sep|><|close|>response<|sep|>"
ARGUMENTS = (
    '<|open|>argument key="city" type="string"<|sep|> "Paris" & <b>\n<|close|>argument<|sep|>'
    '<|open|>argument key="days" type="number"<|sep|>2<|close|>argument<|sep|>'
    '<|open|>argument key="is_metric" type="boolean"<|sep|>true<|close|>argument<|sep|>'
    '<|open|>argument key="tags" type="array"<|sep|>["a"]<|close|>argument<|sep|>'
)
AS_OBJECT = (
    '<|open|>json type="object"<|sep|>'
    '{"city": " \\"Paris\\" & <b>\\n", "days":2, "is_metric": true, "tags": ["a"]}'
    "<|close|>json<|sep|>"
)
MESSAGE_END = "<|close|>message<|sep|>"


def calls_of(arguments: str) -> str:
    return (
        '<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|>'
        f"{arguments}<|close|>call<|sep|>"
        '<|open|>call tool="get_time" index="2"<|sep|><|close|>call<|sep|><|close|>tools<|sep|>'
    )


CALLS = calls_of(ARGUMENTS)
READ = [
    Call("get_weather", {"city": ' "Paris" & <b>\n', "days": 2, "is_metric": True, "tags": ["a"]}),
    Call("get_time", {}),
]


@pytest.mark.parametrize("arguments", [ARGUMENTS, AS_OBJECT])
def test_calls(arguments: str) -> None:
    calls = calls_of(arguments)
    expected = Answer("I look.", "They ask.", READ)
    assert KIMI.read(f"{THOUGHT}{RESPONSE}{calls}{MESSAGE_END}", PROMPT_END) == expected
    assert KIMI.read(f"<|open|>think<|sep|>{THOUGHT}{RESPONSE}{calls}", HEAD) == expected
    assert KIMI.read(f"{THOUGHT}{EMPTY}{calls}", PROMPT_END) == Answer("", "They ask.", READ)
    assert KIMI.read(f"They ask.{calls}", PROMPT_END) == Answer("", "They ask.", READ)


def test_answers_without_calls() -> None:
    text = f"{THOUGHT}{RESPONSE}{MESSAGE_END}"
    for tools in (TOOLS, ()):
        assert KIMI.read(text, PROMPT_END, tools) == Answer("I look.", "They ask.")
        assert KIMI.read(
            f"I look.<|close|>response<|sep|>{MESSAGE_END}", f"{HEAD}<|open|>response<|sep|>", tools
        ) == Answer("I look.")
    assert KIMI.read("I <|open|> it.") == Answer("I <|open|> it.")


def test_an_object_keeps_its_bytes() -> None:
    text = '{"a":"<|close|>json<|sep|>",  "b": 1.0}'
    whole = calls_of(f'<|open|>json type="object"<|sep|>{text}<|close|>json<|sep|>')
    first, _ = read(list(whole), KIMI.tools).calls
    assert first.arguments == text
    broken = KIMI.read(whole[: whole.index("1.0") + 1]).calls
    assert broken == [Call("get_weather", text[:-3], is_complete=False)]


def test_names_and_keys_are_escaped() -> None:
    tool = Tool('a"&amp;b', {"properties": {'"&': {"type": "string"}}, "required": ['"&']})
    text = (
        '<|open|>tools<|sep|><|open|>call tool="a&quot;&amp;amp;b" index="1"<|sep|>'
        '<|open|>argument key="&quot;&amp;" type="string"<|sep|>&amp;<|close|>argument<|sep|>'
        "<|close|>call<|sep|><|close|>tools<|sep|>"
    )
    read = [Call('a"&amp;b', {'"&': "&amp;"})]
    assert KIMI.read(text, tools=(tool,)) == Answer(calls=read)
    grammar = build_answer_grammar(Dialect(None, KIMI.tools), (tool,), choice="required")
    assert accepts(grammar, text)


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ('key="k" type="number"<|sep|>two', {"k": "two"}),
        ('key="k" type="string"<|sep|>2', {"k": "2"}),
        ('type="array" key="k"<|sep|>[1]', {"k": [1]}),
        ('key="city"<|sep|>2', {"city": "2"}),
        ('key="days"<|sep|>2', {"days": 2}),
        ('key="k"<|sep|>2', {"k": 2}),
    ],
)
def test_types(arguments: str, read: dict[str, Any]) -> None:
    text = calls_of(f"<|open|>argument {arguments}<|close|>argument<|sep|>")
    assert KIMI.read(text).calls[0] == Call("get_weather", read)


@pytest.mark.parametrize(
    ("text", "calls", "content"),
    [
        ("<|open|>tools<|sep|>", [], "<|open|>tools<|sep|>"),
        ("<|open|>tools<|sep|> so", [], "<|open|>tools<|sep|> so"),
        (
            '<|open|>tools<|sep|><|open|>call index="1"<|sep|>x',
            [],
            '<|open|>tools<|sep|><|open|>call index="1"<|sep|>x',
        ),
        (
            '<|open|>tools<|sep|><|open|>call tool="f',
            [],
            '<|open|>tools<|sep|><|open|>call tool="f',
        ),
        (
            '<|open|>tools<|sep|><|open|>call tool="f"<|sep|>so<|close|>tools<|sep|>then',
            [Call("f", "", is_complete=False)],
            "sothen",
        ),
        (
            calls_of(f"{ARGUMENTS}{AS_OBJECT}"),
            [
                Call(
                    "get_weather",
                    json.dumps(READ[0].arguments)[:-1],
                    is_complete=False,
                )
            ],
            None,
        ),
    ],
)
def test_what_goes_wrong_is_text(text: str, calls: list[Call], content: str | None) -> None:
    answer = KIMI.read(text)
    assert answer.calls == calls
    if content is not None:
        assert answer.content == content
    else:
        assert answer.content == text[text.index("<|open|>json") :].replace(
            "<|close|>tools<|sep|>", ""
        )


@pytest.mark.parametrize("arguments", [ARGUMENTS, AS_OBJECT])
def test_forced_calls(arguments: str) -> None:
    calls = calls_of(arguments)
    assert KIMI.allows(calls)
    assert not KIMI.allows(calls, most=1)
    assert not KIMI.allows(calls.replace("get_time", "get_date"))
    assert not KIMI.allows(calls.replace("is_metric", "metric").replace("city", "town"))
    assert not KIMI.allows(calls.replace("2", "two", 1))


CONTROL = ["<|open|>", "<|close|>", "<|sep|>"]
WITH_CALL = f"{THOUGHT}{EMPTY}{CALLS}{MESSAGE_END}"
WITHOUT_EMPTY = f"{THOUGHT}{CALLS}"
WITH_BOTH = f"{THOUGHT}{RESPONSE}{CALLS}{MESSAGE_END}"
WITH_TEXT = f"{THOUGHT}<|open|>response<|sep|>4<|close|>response<|sep|>{MESSAGE_END}"
ANSWERS = [WITH_CALL, WITHOUT_EMPTY, WITH_BOTH, WITH_TEXT]


@pytest.mark.parametrize(
    ("choice", "text", "allowed"),
    [
        ("required", None, [WITH_CALL, WITHOUT_EMPTY]),
        ("auto", None, ANSWERS),
        ("none", None, [WITH_TEXT]),
        ("none", Regex("[0-9]"), [WITH_TEXT]),
        ("none", Regex("[a-z]"), []),
        ("auto", Regex("[0-9]"), [WITH_CALL, WITHOUT_EMPTY, WITH_TEXT]),
    ],
)
def test_whole_answers(
    choice: Literal["none", "auto", "required"], text: Node | None, allowed: list[str]
) -> None:
    dialect = Dialect(KIMI.reasoning, KIMI.tools)
    grammar = build_answer_grammar(dialect, TOOLS, choice=choice, text=text, prompt_end=PROMPT_END)
    assert [each for each in ANSWERS if accepts(grammar, each, CONTROL)] == allowed
    without_thought = build_answer_grammar(
        dialect, TOOLS, choice=choice, text=text, prompt_end=f"{HEAD}<|open|>response<|sep|>"
    )
    begun = f"{THOUGHT}<|open|>response<|sep|>"
    assert [
        each
        for each in ANSWERS
        if each.startswith(begun) and accepts(without_thought, each.removeprefix(begun), CONTROL)
    ] == [each for each in allowed if each.startswith(begun)]


# What a conversation looks like to the model, in as few words as will do.
TEMPLATE = """\
{%- macro open(tag) %}{{ '<|open|>' ~ tag ~ '<|sep|>' }}{% endmacro %}
{%- macro close(tag) %}{{ '<|close|>' ~ tag ~ '<|sep|>' }}{% endmacro %}
{%- if thinking is undefined %}{% set thinking = true %}{% endif %}
{%- if tools %}{{ open('message role="system"') ~ tools | tojson ~ close('message') }}{% endif %}
{%- for m in messages %}{{ open('message role="' ~ m.role ~ '"') }}
    {%- if m.role != 'assistant' %}{{ m.content }}
    {%- else %}
        {%- if thinking %}
            {{- open('think') ~ (m.reasoning_content or '') ~ close('think') }}
        {%- endif %}
        {{- open('response') ~ (m.content or '') ~ close('response') }}
        {%- if m.tool_calls %}{{ open('tools') }}
            {%- for call in m.tool_calls %}
                {{- open('call tool="' ~ call.function.name ~ '" index="' ~ loop.index ~ '"') }}
                {%- for key, value in call.function.arguments | items %}
                    {%- set kind = 'string' if value is string else 'boolean' if value is boolean
                        else 'number' if value is number else 'object' if value is mapping
                        else 'array' %}
                    {{- open('argument key="' ~ key ~ '" type="' ~ kind ~ '"') }}
                    {{- (value if value is string else value | tojson) ~ close('argument') }}
                {%- endfor %}{{ close('call') }}
            {%- endfor %}{{ close('tools') }}
        {%- endif %}
    {%- endif %}{{ close('message') ~ '<|end_of_msg|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- open('message role="assistant"') ~ open('think' if thinking else 'response') }}
{%- endif %}"""


def test_what_a_template_writes_is_read_back() -> None:
    dialect = choose_for(TEMPLATE, r"<\|\w+\|>")
    assert names_of(dialect) == ("kimi_k3", "kimi_k3")
    assert dialect.problems == ()


def write(calls: Sequence[WrittenCall]) -> str:
    """Write calls as the encoder does, every second with all arguments as an object."""
    elements = [_write_call(call, number) for number, call in enumerate(calls, 1)]
    return f"<|open|>tools<|sep|>{''.join(elements)}<|close|>tools<|sep|>"


def _write_call(call: WrittenCall, number: int) -> str:
    kinds = {str: "string", bool: "boolean", int: "number", list: "array", dict: "object"}
    body = f'<|open|>json type="object"<|sep|>{call.json}<|close|>json<|sep|>'
    if number % 2:
        body = "".join(
            f'<|open|>argument key="{key}" type="{kinds[type(value)]}"<|sep|>'
            f"{value if isinstance(value, str) else call.write(value)}<|close|>argument<|sep|>"
            for key, value in call.arguments.items()
        )
    return f'<|open|>call tool="{call.name}" index="{number}"<|sep|>{body}<|close|>call<|sep|>'


def test_properties_of_every_dialect() -> None:
    KIMI.check(write)


def test_speed() -> None:
    heads = [calls_of(each)[: calls_of(each).index("Paris")] for each in (ARGUMENTS, AS_OBJECT)]
    check_speed(KIMI.tools, KIMI.reasoning, num_chars=100_000, heads=heads)
