"""Messages are brought into the shape that a template takes, or are refused by place."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llmplug import InvalidRequest, UnsupportedParameter
from llmplug.chat.render import ChatRenderer

from .rendering import (
    Messages,
    make_tool,
    renderer,
    talk,
)
from .vocabularies import cached

PARTS_ONLY = """\
{%- for m in messages %}{{ '<|im_start|>' }}
    {%- for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}
{%- endfor %}"""
TEXT_ARGUMENTS = """\
{%- for m in messages %}{{ m.content or '' }}
    {%- for call in m.tool_calls or [] %}{{ '<think>' + call.function.arguments }}{% endfor %}
{%- endfor %}"""

TOOLS_ALONE = "{%- for tool in tools %}{{ tool.function.description }}{% endfor %}"


def test_shape_is_found_by_trying() -> None:
    strings = renderer("byte_level", "plain").shape
    assert (strings.takes_strings, strings.takes_parts) == (True, False)
    assert (strings.needs_content, strings.takes_tools, strings.takes_tool_calls) == (
        True, False, False,
    )  # fmt: skip
    both = renderer("byte_level", "tools").shape
    assert (both.takes_strings, both.takes_parts, both.takes_argument_maps) == (True, True, True)
    assert (both.needs_content, both.takes_tools, both.takes_tool_calls) == (False, True, True)
    parts = ChatRenderer(cached("byte_level"), PARTS_ONLY).shape
    assert (parts.takes_strings, parts.takes_parts) == (False, True)
    texts = ChatRenderer(cached("byte_level"), TEXT_ARGUMENTS).shape
    assert (texts.takes_tool_calls, texts.takes_argument_maps) == (True, False)
    needs_tools = TOOLS_ALONE + TEXT_ARGUMENTS
    assert ChatRenderer(cached("byte_level"), needs_tools).shape.takes_tool_calls
    shows_no_calls = TOOLS_ALONE + PARTS_ONLY
    assert not ChatRenderer(cached("byte_level"), shows_no_calls).shape.takes_tool_calls


def test_parts_become_what_the_template_takes() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    message = {"role": "user", "content": parts}
    plain = renderer("byte_level", "plain").render_text([message])
    assert plain == "<|im_start|>user\none\ntwo<|im_end|>\n<|im_start|>assistant\n"
    tools = renderer("byte_level", "tools").render_text([message])
    assert tools == "<|im_start|>user\nonetwo<|im_end|>\n<|im_start|>assistant\n"
    ours = ChatRenderer(cached("byte_level"), PARTS_ONLY)
    assert ours.render_text(talk("one")) == "<|im_start|>one"


def test_arguments_as_text_become_a_map_and_back() -> None:
    def call(arguments: object) -> Messages:
        function = {"name": "f", "arguments": arguments}
        return [
            {"role": "user", "content": "q"},
            {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]},
        ]

    maps = renderer("byte_level", "tools")
    assert maps.render(call('{"a": [1, "é"]}')) == maps.render(call({"a": [1, "é"]}))
    assert '<think>f{"a": [1, "é"]}</think>' in maps.render_text(call('{"a": [1, "é"]}'))
    texts = ChatRenderer(cached("byte_level"), TEXT_ARGUMENTS)
    assert texts.render_text(call({"a": 1})) == 'q<think>{"a": 1}'
    assert texts.render_text(call('{"a":1}')) == 'q<think>{"a":1}'


NULL_BESIDE_CALLS = """\
{%- for m in messages %}
    {%- if m.role == 'assistant' and m.content is none %}
        {%- for call in m.tool_calls %}
            {{- call.function.name + call.function.arguments }}
        {%- endfor %}
    {%- else %}{{ m.content + '<|im_end|>' }}
    {%- endif %}
{%- endfor %}"""


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": []}])
def test_templates_that_want_null_beside_calls_get_it(content: dict[str, Any]) -> None:
    ours = ChatRenderer(cached("byte_level"), NULL_BESIDE_CALLS)
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [*talk("q"), {"role": "assistant", **content, "tool_calls": [call]}]
    assert ours.render_text(messages) == "q<|im_end|>f{}"


RESULTS = """\
{%- for m in messages %}
    {%- for call in m.tool_calls or [] %}
        {%- if call.id | length != 9 %}{{ raise_exception('nine letters') }}{% endif %}
        {{- call.id ~ call.function.name ~ call.function.arguments | tojson ~ ' ' }}
    {%- endfor %}
    {%- if m.role == 'tool' %}{{ m.tool_call_id ~ '=' ~ m.name ~ ':' }}{% endif %}
    {{- m.content }}{{ '<|im_end|>' }}
{%- endfor %}"""


def test_results_are_named_and_ids_are_as_the_template_wants_them() -> None:
    ours = ChatRenderer(cached("byte_level"), RESULTS)
    assert ours.shape.wants_short_ids
    assert not ChatRenderer(cached("byte_level"), RESULTS.replace("9", "29")).shape.takes_tool_calls
    plain = RESULTS.replace("!= 9", "== 0")
    assert not ChatRenderer(cached("byte_level"), plain).shape.wants_short_ids

    def text_of(first: str, second: str) -> str:
        calls = [
            {"id": first, "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": second, "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ]
        return ours.render_text(
            [
                *talk("q"),
                {"role": "assistant", "content": "", "tool_calls": calls},
                {"role": "tool", "tool_call_id": second, "content": "2"},
                {"role": "tool", "tool_call_id": first, "content": "1", "name": "own"},
            ]
        )

    assert text_of("aaaaaaaa1", "bbbbbbbb2") == (
        "q<|im_end|>aaaaaaaa1f{} bbbbbbbb2g{} <|im_end|>"
        "bbbbbbbb2=g:2<|im_end|>aaaaaaaa1=own:1<|im_end|>"
    )
    found = text_of("call_" + "a" * 24, "call_" + "b" * 24)
    ids = re.findall("[a-z0-9]{9}(?=[fg]{})", found)
    assert len(set(ids)) == 2
    assert f"{ids[1]}=g:2<|im_end|>{ids[0]}=own:1" in found


def test_documents_need_a_place() -> None:
    with pytest.raises(UnsupportedParameter, match="no place for documents") as caught:
        renderer("byte_level", "plain").render(talk("a"), documents=[{"text": "b"}])
    assert caught.value.param == "documents"
    renderer("byte_level", "plain").render(talk("a"), documents=[])


IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"content": "a"}], "messages[0].role"),
        ([{"role": 3, "content": "a"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([*talk("a"), {"role": "user", "content": None}], "messages[1].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": ["a"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}],
            "messages[0].content[1]",
        ),
        ([{"role": "assistant", "tool_calls": "a"}], "messages[0].tool_calls"),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].function"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_malformed_messages_name_their_place(messages: Messages, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        renderer("byte_level", "tools").render(messages)
    assert caught.value.param == param


def test_what_the_template_cannot_show_is_refused() -> None:
    ours = renderer("byte_level", "plain")
    with pytest.raises(UnsupportedParameter, match="tools") as caught:
        ours.render(talk("a"), tools=[make_tool("f")])
    assert caught.value.param == "tools"
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    with pytest.raises(UnsupportedParameter) as caught:
        ours.render([*talk("a"), {"role": "assistant", "tool_calls": [call]}])
    assert caught.value.param == "messages[1].tool_calls"


def test_nested_too_deeply_is_refused() -> None:
    value: object = "a"
    for _ in range(500):
        value = [value]
    with pytest.raises(InvalidRequest, match="nested"):
        renderer("byte_level", "plain").render([{"role": "user", "content": "a", "x": value}])
