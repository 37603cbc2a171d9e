"""What a request may say of tools, and which of its promises a grammar keeps."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from llmplug.chat.call_grammar import build_answer_grammar
from llmplug.dialect import Tool
from llmplug.grammar import decode_grammar

from .conftest import StartServer
from .fake_engine import speak
from .test_tools import DIALECT, TOOLS, Checks, allow, make_tool, write_call


def nest(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


FUNCTION = {"type": "function", "function": {"name": "time"}}
BAD_TOOLS: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": {}}, "tools", "invalid_type"),
    ({"tools": [make_tool(f"f{i}") for i in range(129)]}, "tools", "invalid_value"),
    ({"tools": ["time"]}, "tools[0]", "invalid_type"),
    ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type", "unsupported_parameter"),
    ({"tools": [{"type": "function", "name": "f"}]}, "tools[0].function", "invalid_type"),
    ({"tools": [make_tool("a b")]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [make_tool("a" * 65)]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [make_tool("a\n")]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [make_tool("f"), make_tool("f")]}, "tools[1].function.name", "invalid_value"),
    ({"tools": [make_tool("f", strict=1)]}, "tools[0].function.strict", "invalid_type"),
    ({"tools": [make_tool("f", parameters=[])]}, "tools[0].function.parameters", "invalid_type"),
    (
        {"tools": [make_tool("f", parameters=nest(400))]},
        "tools[0].function.parameters",
        "invalid_value",
    ),
    (
        {"tools": [make_tool("f", parameters={"type": "array"})]},
        "tools[0].function.parameters",
        "invalid_value",
    ),
    ({"tools": [make_tool("f", description=1)]}, "tools[0].function.description", "invalid_type"),
    ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice", "invalid_value"),
    ({"tools": TOOLS, "tool_choice": 5}, "tool_choice", "invalid_value"),
    ({"tools": TOOLS, "tool_choice": {"type": "custom"}}, "tool_choice", "unsupported_parameter"),
    (
        {"tools": TOOLS, "tool_choice": {"type": "function"}},
        "tool_choice.function.name",
        "invalid_value",
    ),
    (
        {"tools": TOOLS[:1], "tool_choice": FUNCTION},
        "tool_choice.function.name",
        "invalid_value",
    ),
    ({"tool_choice": FUNCTION}, "tool_choice.function.name", "invalid_value"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tools": [], "tool_choice": "required"}, "tool_choice", "invalid_value"),
    (
        {"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}},
        "tool_choice.allowed_tools",
        "invalid_type",
    ),
    (
        {"tools": TOOLS, "tool_choice": allow("none", "time")},
        "tool_choice.allowed_tools.mode",
        "invalid_value",
    ),
    (
        {"tools": TOOLS, "tool_choice": allow("auto")},
        "tool_choice.allowed_tools.tools",
        "invalid_value",
    ),
    (
        {"tools": TOOLS, "tool_choice": allow("auto", "time", "date")},
        "tool_choice.allowed_tools.tools[1].function.name",
        "invalid_value",
    ),
    ({"tools": TOOLS, "parallel_tool_calls": 1}, "parallel_tool_calls", "invalid_type"),
]


@pytest.mark.parametrize(("fields", "param", "code"), BAD_TOOLS)
async def test_malformed_tools_are_refused(
    start: StartServer, fields: dict[str, Any], param: str, code: str
) -> None:
    server = await start(dialect=DIALECT)
    response = await server.chat(**fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert server.engine.requests == []


async def test_tools_need_a_dialect(start: StartServer) -> None:
    server = await start()
    error = (await server.chat(tools=TOOLS)).json()["error"]
    assert (error["param"], error["code"]) == ("tools", "unsupported_parameter")
    for harmless in ({"tools": TOOLS, "tool_choice": "none"}, {"tools": [], "tool_choice": "auto"}):
        assert (await server.chat(**harmless)).status_code == 200


STRICT = make_tool("time", strict=True)
FORCING: list[tuple[dict[str, Any], str, int | None, list[str]]] = [
    ({"tool_choice": "required"}, "required", None, ["weather", "time"]),
    ({"tool_choice": FUNCTION}, "required", 1, ["time"]),
    (
        {"tool_choice": "required", "parallel_tool_calls": False},
        "required",
        1,
        ["weather", "time"],
    ),
    ({"tools": [TOOLS[0], STRICT]}, "auto", None, ["weather", "time"]),
    ({"tool_choice": allow("required", "time")}, "required", None, ["time"]),
    ({"tool_choice": allow("auto", "weather")}, "auto", None, ["weather"]),
]


@pytest.mark.parametrize(("fields", "choice", "most", "names"), FORCING)
async def test_promises_are_kept_by_a_grammar(
    start: StartServer,
    fields: dict[str, Any],
    choice: Literal["auto", "required"],
    most: int | None,
    names: list[str],
) -> None:
    checks = Checks()
    server = await start(speak(write_call("time")), dialect=DIALECT, grammars=checks)
    asked = {"tools": TOOLS, **fields}
    assert (await server.chat(**asked)).status_code == 200
    tools = [
        Tool(f["name"], f["parameters"], f["description"], f.get("strict", False))
        for f in (each["function"] for each in asked["tools"])
        if f["name"] in names
    ]
    wanted = build_answer_grammar(DIALECT, tools, choice=choice, most=most)
    assert decode_grammar(server.engine.requests[0].grammar) == wanted
    assert checks.params == ["tools"]
    # The prompt shows all of them, whatever the choice.
    assert len(server.renderer.calls[0]["tools"]) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tool_choice": "none"},
        {"parallel_tool_calls": False},
        {"tool_choice": allow("auto", "time", "weather")},
    ],
)
async def test_free_answers_have_no_grammar(start: StartServer, fields: dict[str, Any]) -> None:
    server = await start(speak("Hi"), dialect=DIALECT, grammars=Checks())
    assert (await server.chat(tools=TOOLS, **fields)).status_code == 200
    assert server.engine.requests[0].grammar == b""


async def test_schema_that_is_too_hard_is_named(start: StartServer) -> None:
    hard = make_tool("hard", strict=True, parameters={"type": "object", "title": "never"})
    server = await start(dialect=DIALECT, grammars=Checks())
    error = (await server.chat(tools=[*TOOLS, hard])).json()["error"]
    assert error["param"] == "tools[2].function.parameters"
    assert error["code"] == "invalid_grammar"
    assert server.engine.requests == []


async def test_promises_need_a_backend(start: StartServer) -> None:
    server = await start(dialect=DIALECT)
    error = (await server.chat(tools=TOOLS, tool_choice="required")).json()["error"]
    assert (error["param"], error["code"]) == ("tool_choice", "unsupported_parameter")
