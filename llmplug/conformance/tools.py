"""Tools and structured output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llmplug.conformance.checks import NotOffered, check, expect, expect_ok
from llmplug.conformance.streams import join, read_chunks

if TYPE_CHECKING:
    from llmplug.conformance.target import Answer, Target

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
FORCED: dict[str, Any] = {
    "tools": [WEATHER],
    "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    "temperature": 0,
    "max_tokens": 100,
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer"}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
STRUCTURED: dict[str, Any] = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "apples", "schema": SCHEMA, "strict": True},
    },
    "temperature": 0,
    "max_tokens": 100,
}


def _read(answer: Answer) -> Any:
    """Return a reply; a server or a model that does not serve this says so with a 400."""
    if answer.status == 400:
        raise NotOffered
    return expect_ok(answer)


@check("tools")
def named_call(target: Target) -> None:
    """A named function is called, with an id and arguments that are JSON of its schema."""
    message = _read(target.chat("Weather in Rome?", **FORCED))["choices"][0]["message"]
    calls = message.get("tool_calls") or []
    expect(len(calls) == 1, f"{len(calls)} calls")
    call = calls[0]
    expect(call.get("type") == "function" and call.get("id"), f"{call}")
    expect(call["function"]["name"] == "get_weather", f"name is {call['function']['name']!r}")
    _expect_city(call["function"]["arguments"])


@check("tools")
def streamed_call(target: Target) -> None:
    """A streamed call begins with id and name, and its pieces of arguments join to JSON."""
    if target.chat("Weather in Rome?", **FORCED).status == 400:
        raise NotOffered
    deltas = [
        call
        for chunk in read_chunks(target, text="Weather in Rome?", **FORCED)
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls") or ()
    ]
    expect(deltas, "no delta has tool_calls")
    expect(all(each.get("index") == 0 for each in deltas), "a delta without index 0")
    expect(deltas[0].get("id") and deltas[0]["function"].get("name"), f"{deltas[0]}")
    _expect_city("".join(each["function"].get("arguments") or "" for each in deltas))


@check("tools")
def results_are_read(target: Target) -> None:
    """A conversation with a call and its result is answered."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
    }
    messages = [
        {"role": "user", "content": "Weather in Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    reply = _read(target.chat(messages=messages, tools=[WEATHER]))
    message = reply["choices"][0]["message"]
    expect(message.get("content") or message.get("tool_calls"), f"{message}")


@check("structured output")
def json_schema(target: Target) -> None:
    """An answer is JSON of the schema."""
    text = _read(target.chat("Apples?", **STRUCTURED))["choices"][0]["message"]["content"]
    _expect_apples(text)


@check("structured output")
def streamed_json_schema(target: Target) -> None:
    """A streamed answer is, too."""
    if target.chat("Apples?", **STRUCTURED).status == 400:
        raise NotOffered
    _expect_apples(join(read_chunks(target, text="Apples?", **STRUCTURED)))


def _expect_city(arguments: str) -> None:
    try:
        read = json.loads(arguments)
    except ValueError:
        expect(False, f"arguments are no JSON: {arguments!r}")
    expect(isinstance(read, dict) and set(read) == {"city"}, f"arguments are {arguments}")
    expect(isinstance(read["city"], str), f"city is {read['city']!r}")


def _expect_apples(text: str) -> None:
    try:
        read = json.loads(text)
    except ValueError:
        expect(False, f"no JSON: {text!r}")
    expect(isinstance(read, dict) and set(read) == {"colour", "count"}, f"{text}")
    expect(read["colour"] in ("red", "green") and isinstance(read["count"], int), f"{text}")


CHECKS = (named_call, streamed_call, results_are_read, json_schema, streamed_json_schema)
