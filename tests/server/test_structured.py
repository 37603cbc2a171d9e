"""`response_format` and `structured_outputs`: what they say, and what becomes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmplug.chat.channels import Dialect
from llmplug.dialect import ReasoningSyntax, in_template
from llmplug.errors import GrammarError, InvalidRequest
from llmplug.grammar import (
    Json,
    Lark,
    Node,
    OneOf,
    Regex,
    Repeat,
    Seq,
    Text,
    decode_grammar,
    encode_grammar,
)
from llmplug.server.schema.structured import read_structure
from llmplug.specs import ReasoningParserSpec

from .conftest import StartServer
from .fake_engine import speak

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "null"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
ANY_OBJECT = Json({"type": "object"})


class Checks:
    """Remembers what it was asked; refuses trees that hold `bad`."""

    def __init__(self, bad: bytes = b"nothing is bad") -> None:
        self.asked: list[tuple[Node, str]] = []
        self._bad = bad

    async def check(self, node: Node, param: str) -> None:
        self.asked.append((node, param))
        if self._bad in encode_grammar(node):
            raise GrammarError("it is bad", param=param)

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""


@pytest.mark.parametrize(
    ("value", "node"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, ANY_OBJECT),
        (FORMAT, Json(SCHEMA)),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, ANY_OBJECT),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": True, "strict": None}},
            Json(True),
        ),
    ],
)
def test_formats(value: Any, node: Node | None) -> None:
    assert read_structure(value, None) == (node, "response_format")


@pytest.mark.parametrize(
    ("value", "node"),
    [
        ({"json": SCHEMA}, Json(SCHEMA)),
        ({"json": json.dumps(SCHEMA), "regex": None}, Json(SCHEMA)),
        ({"json_object": True}, ANY_OBJECT),
        ({"regex": "a+"}, Regex("a+")),
        ({"choice": ["yes", "no", "yes"]}, OneOf([Text("yes"), Text("no")])),
        ({"grammar": 'start: "a"'}, Lark('start: "a"')),
    ],
)
def test_structures(value: Any, node: Node) -> None:
    assert read_structure(None, value) == (node, "structured_outputs")
    assert read_structure({"type": "text"}, value) == (node, "structured_outputs")


REFUSED = [
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {}}, "response_format.type"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "text", "schema": {}}}, "response_format.schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "response_format.json_schema.name",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": "{}"}}},
        "response_format.json_schema.schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": 1}}},
        "response_format.json_schema.strict",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "more": 1}}},
        "response_format.json_schema.more",
    ),
    ({"structured_outputs": {}}, "structured_outputs"),
    ({"structured_outputs": []}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs"),
    ({"structured_outputs": {"whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
    ({"structured_outputs": {"json": 5}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": "[" * 200_000}}, "structured_outputs.json"),
    ({"structured_outputs": {"json_object": False}}, "structured_outputs.json_object"),
    ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
    ({"structured_outputs": {"regex": ["a"]}}, "structured_outputs.regex"),
    ({"structured_outputs": {"grammar": 5}}, "structured_outputs.grammar"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": "yes"}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": ["a", 1]}}, "structured_outputs.choice[1]"),
    ({"structured_outputs": {"choice": ["a"] * 100_001}}, "structured_outputs.choice"),
    ({"structured_outputs": {"regex": "\ud800"}}, "structured_outputs.regex"),
    (
        {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
        "structured_outputs",
    ),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_what_is_malformed_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_structure(fields.get("response_format"), fields.get("structured_outputs"))
    assert refused.value.param == param


async def test_chats_and_completions_are_held_to_it(start: StartServer) -> None:
    checks = Checks()
    server = await start(speak("{}"), grammars=checks)
    assert (await server.chat(response_format=FORMAT, n=2, stream=True)).status_code == 200
    assert (await server.complete(structured_outputs={"regex": "a+"})).status_code == 200
    chat, completion = server.engine.requests
    assert decode_grammar(chat.grammar) == Json(SCHEMA)
    assert list(decode_grammar(chat.grammar).schema["properties"]) == ["b", "a"]
    assert decode_grammar(completion.grammar) == Regex("a+")
    assert checks.asked == [(Json(SCHEMA), "response_format"), (Regex("a+"), "structured_outputs")]


async def test_what_cannot_be_followed_never_reaches_the_engine(start: StartServer) -> None:
    server = await start(speak("{}"), grammars=Checks(bad=b"uniqueItems"))
    bad = {"type": "array", "uniqueItems": True}
    responses = [
        await server.chat(structured_outputs={"json": bad}),
        await server.complete(structured_outputs={"json": bad}, stream=True),
    ]
    for response in responses:
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["code"] == "invalid_grammar"
        assert error["param"] == "structured_outputs"
    assert server.engine.requests == []


async def test_without_a_backend_it_is_refused(start: StartServer) -> None:
    server = await start(speak("{}"))
    for response in (
        await server.chat(response_format={"type": "json_object"}),
        await server.complete(response_format={"type": "json_object"}),
    ):
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "response_format"


async def test_the_form_begins_where_thinking_ends(start: StartServer) -> None:
    syntax = ReasoningSyntax(start=("<think>",), end="</think>")
    spec = ReasoningParserSpec(name="thinking", detect=in_template("<think>"), syntax=syntax)
    dialect = Dialect(spec, None, ())
    server = await start(speak("{}"), grammars=Checks(), dialect=dialect)
    assert (await server.chat(response_format=FORMAT)).status_code == 200
    tree = decode_grammar(server.engine.requests[0].grammar)
    assert isinstance(tree, Seq)
    assert isinstance(tree.items[0], Repeat), "a block may be opened, and need not"
    assert tree.items[-1] == Json(SCHEMA)
