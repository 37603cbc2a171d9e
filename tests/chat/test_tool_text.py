"""Tools told in plain messages: what is written as a call is read back as one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmplug.chat.channels import make_parser
from llmplug.chat.messages import MessageShape
from llmplug.chat.tool_text import describe_tools, find_written_calls, put_tools_in_text
from llmplug.dialect import (
    AnswerContext,
    CallArguments,
    CallStart,
    Content,
    JsonCalls,
    NamedCalls,
    PythonCalls,
    Tool,
    in_template,
)
from llmplug.errors import InvalidRequest
from llmplug.specs import ToolParserSpec

NEITHER = MessageShape(takes_tools=False, takes_tool_calls=False)
TAGGED = JsonCalls(start=("<call>", "<tool>"), end="</call>")
TABLES = [
    TAGGED,
    JsonCalls(start=("[CALLS]",), holds="list", arguments_key=("parameters", "arguments")),
    JsonCalls(start=("<c>",), end="</c>", name_key=""),
    NamedCalls(section=("<s>", "</s>"), start="<c>", after_name="\n```json\n", end="\n```</c>"),
    NamedCalls(start="[CALL]", after_name="[ARGS]"),
]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "time", "parameters": {"type": "object", "properties": {}}},
}
USER = {"role": "user", "content": "Hi"}


def make_call(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def make_spec(syntax: Any) -> ToolParserSpec:
    return ToolParserSpec(name="toy", detect=in_template("x"), syntax=(syntax,))


@pytest.mark.parametrize("syntax", TABLES)
def test_calls_are_read_back(syntax: JsonCalls | NamedCalls) -> None:
    arguments = {"city": 'Zürich "</call>"', "hours": [1, {"a": None}]}
    calls = [make_call("1", "time", arguments), make_call("2", "time", json.dumps(arguments))]
    answer = {"role": "assistant", "content": "Well.", "tool_calls": calls}
    (_, written), _ = put_tools_in_text([USER, answer], [], syntax, NEITHER)
    parser = make_parser(None, make_spec(syntax), AnswerContext(tools=(Tool("time"),)))
    events = parser.feed(written["content"]) + parser.finish()
    text = "".join(event.text for event in events if isinstance(event, Content))
    assert text.strip() == "Well."
    assert [event.name for event in events if isinstance(event, CallStart)] == ["time"] * 2
    for index in (0, 1):
        read = [e.text for e in events if isinstance(e, CallArguments) and e.index == index]
        assert json.loads("".join(read)) == arguments


def test_tools_are_told_in_the_system_message() -> None:
    told = describe_tools([TOOL], TAGGED)
    assert json.dumps(TOOL["function"]) in told
    assert '<call>{"name": "NAME"' in told
    for messages, first in (
        ([USER], told),
        ([{"role": "system", "content": "Be kind."}, USER], f"Be kind.\n\n{told}"),
        (
            [{"role": "system", "content": [{"type": "text", "text": "Be kind."}]}, USER],
            f"Be kind.\n\n{told}",
        ),
    ):
        written, tools = put_tools_in_text(messages, [TOOL], TAGGED, NEITHER)
        assert written == [{"role": "system", "content": first}, USER]
        assert tools == []


def test_results_answer_as_the_user_all_in_one_message() -> None:
    calls = [make_call("a", "time", {}), make_call("b", "weather", {})]
    results = [
        {"role": "tool", "tool_call_id": "a", "content": "noon"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "rain"}]},
    ]
    answer = {"role": "assistant", "tool_calls": calls, "reasoning_content": "Hm."}
    written, _ = put_tools_in_text([USER, answer, *results, USER], [], TAGGED, NEITHER)
    assert [message["role"] for message in written] == ["user", "assistant", "user", "user"]
    assert written[2]["content"] == "Result of time:\nnoon\n\nResult of weather:\nrain"
    assert written[1]["reasoning_content"] == "Hm."
    assert "tool_calls" not in written[1]


def test_template_with_a_place_is_left_to_it() -> None:
    messages = [
        USER,
        {"role": "assistant", "tool_calls": [make_call("a", "time", {})]},
        {"role": "tool", "tool_call_id": "a", "content": "noon"},
    ]
    shape = MessageShape(takes_tools=True, takes_tool_calls=True)
    assert put_tools_in_text(messages, [TOOL], TAGGED, shape) == (messages, [TOOL])


def test_only_arguments_in_json_can_be_told() -> None:
    for table in TABLES:
        assert find_written_calls(make_spec(table)) == table
    assert find_written_calls(make_spec(PythonCalls(start=("",)))) is None
    assert find_written_calls(None) is None


@pytest.mark.parametrize("arguments", ["{cut", "[" * 200_000])
def test_arguments_that_are_no_json_are_named(arguments: str) -> None:
    answer = {"role": "assistant", "tool_calls": [make_call("a", "time", arguments)]}
    with pytest.raises(InvalidRequest) as caught:
        put_tools_in_text([USER, answer], [], TAGGED, NEITHER)
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"
