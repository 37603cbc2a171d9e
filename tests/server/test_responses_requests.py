"""What Responses requests ask for, how it reaches the model, and what is refused by which name."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from llmplug.chat.channels import Dialect
from llmplug.errors import ContextLengthExceeded, GrammarError
from llmplug.grammar import Json, Node, decode_grammar

from .conftest import Running, StartServer
from .fake_engine import TOKENIZER, FakeEngine, FakeRenderer, speak
from .test_responses import TOOLS, ask, respond
from .test_tools import DIALECT, REASONING_SPEC, write_call

CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "R"}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}


class AnyGrammar:
    """Checks nothing; remembers what it was asked, and refuses one schema."""

    def __init__(self) -> None:
        self.asked: list[tuple[Node, str]] = []
        self.refused: Any = None

    async def check(self, node: Node, param: str) -> None:
        self.asked.append((node, param))
        if node == self.refused:
            raise GrammarError(f"'{param}' cannot be followed.", param=param)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


def shown_messages(server: Running) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = server.renderer.calls[-1]["messages"]
    return messages


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def test_items_become_messages(start: StartServer) -> None:
    server = await start(dialect=DIALECT)
    items = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "How "},
                {"type": "input_text", "text": "is it?"},
            ],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Look."}],
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}],
        },
        CALL,
        {"type": "custom_tool_call", "call_id": "c2", "name": "run", "input": "1+1"},
        RESULT,
        {
            "type": "custom_tool_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "2"}],
        },
        {"type": "message", "role": "assistant", "content": "Sunny."},
        {"type": "message", "role": "user", "content": "And now?"},
    ]
    reply = await respond(server, input=items, instructions="Be kind.", tools=TOOLS)
    assert reply.status_code == 200, reply.text
    assert "X-Llmplug-Ignored" not in reply.headers
    assert shown_messages(server) == [
        {"role": "system", "content": "Be kind.\n\nBe brief."},
        user("How is it?"),
        {
            "role": "assistant",
            "reasoning_content": "Look.",
            "content": "Let me see.",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "R"}'},
                },
                {
                    "id": "c2",
                    "type": "function",
                    "function": {"name": "run", "arguments": {"input": "1+1"}},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "assistant", "content": "Sunny."},
        user("And now?"),
    ]


async def test_fields_reach_the_engine(start: StartServer) -> None:
    server = await start(sampler_fields=("mirostat",))
    fields = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "seed": 3,
        "stop": ["x"],
        "min_tokens": 2,
        "max_output_tokens": 20,
        "presence_penalty": 0.25,
        "logit_bias": {"5": 1.0},
        "mirostat": 2,
        "priority": -1,
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "max_tool_calls": 3,
    }
    reply = await respond(server, **fields, colour="red")
    body = reply.json()
    assert reply.headers["X-Llmplug-Ignored"] == "colour"
    assert (body["temperature"], body["top_p"], body["max_tool_calls"]) == (0.5, 0.9, 3)
    (request,) = server.engine.requests
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert (sampling.min_p, sampling.seed, sampling.stop) == (0.1, 3, ("x",))
    assert (sampling.min_tokens, sampling.max_tokens) == (2, 20)
    assert (sampling.presence_penalty, sampling.logit_bias) == (0.25, {5: 1.0})
    assert (sampling.extra, request.priority) == ({"mirostat": 2}, -1)


@pytest.mark.parametrize(
    ("form", "tree"),
    [
        ({"type": "json_object"}, {"type": "object"}),
        (
            {"type": "json_schema", "name": "n", "schema": {"type": "array"}, "strict": True},
            {"type": "array"},
        ),
    ],
)
async def test_text_format_is_a_grammar(start: StartServer, form: Any, tree: Any) -> None:
    server = await start(grammars=AnyGrammar())
    body = await ask(server, False, text={"format": form})
    assert decode_grammar(server.engine.requests[0].grammar) == Json(tree)
    assert body["text"]["format"] == form


async def test_schema_that_cannot_be_followed_is_named(start: StartServer) -> None:
    grammars = AnyGrammar()
    grammars.refused = Json({"type": "strange"})
    server = await start(grammars=grammars)
    form = {"type": "json_schema", "name": "n", "schema": {"type": "strange"}}
    error = (await respond(server, text={"format": form})).json()["error"]
    assert error["param"] == "text.format"
    assert "'text.format'" in error["message"]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"weather", "time"}),
        ({"type": "function", "name": "time"}, {"time"}),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "weather"}],
            },
            {"weather"},
        ),
    ],
)
async def test_tool_choice(start: StartServer, choice: Any, names: set[str]) -> None:
    server = await start(speak(write_call("time")), dialect=DIALECT, grammars=AnyGrammar())
    body = await ask(server, False, tools=TOOLS, tool_choice=choice)
    grammar = server.engine.requests[0].grammar.decode()
    assert {tool["name"] for tool in TOOLS if f'\\"{tool["name"]}\\"' in grammar} == names
    assert body["tool_choice"] == choice


async def test_no_tools_are_called_where_none_is_chosen(start: StartServer) -> None:
    text = write_call("time")
    server = await start(speak(text), dialect=DIALECT)
    body = await ask(server, False, tools=TOOLS, tool_choice="none")
    assert body["output"][0]["content"][0]["text"] == text


async def test_effort_is_read(start: StartServer) -> None:
    server = await start(dialect=Dialect(REASONING_SPEC, None))
    body = await ask(server, False, reasoning={"effort": "medium", "summary": "auto"})
    assert body["reasoning"] == {"effort": "medium", "summary": None}
    error = (await respond(server, reasoning={"effort": "high"})).json()["error"]
    assert error["param"] == "reasoning.effort"
    assert error["message"].startswith("'reasoning.effort' would change nothing")


async def test_sealed_thinking_is_listed_as_ignored(start: StartServer) -> None:
    server = await start()
    items = [
        {"role": "user", "content": "Hi"},
        {"type": "reasoning", "summary": [], "encrypted_content": "gA=="},
    ]
    reply = await respond(server, input=items, include=["reasoning.encrypted_content"])
    assert reply.headers["X-Llmplug-Ignored"] == (
        "include[reasoning.encrypted_content], input[1].encrypted_content"
    )


async def test_unknown_fields_of_tools_are_listed_as_ignored(start: StartServer) -> None:
    server = await start(dialect=DIALECT)
    reply = await respond(server, tools=[{**TOOLS[0], "defer_loading": True}])
    assert reply.headers["X-Llmplug-Ignored"] == "tools[0].defer_loading"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
    ({"tools": [*TOOLS, TOOLS[0]]}, "tools[2].name"),
    ({"tools": [{"type": "function", "name": "f", "parameters": []}]}, "tools[0].parameters"),
    (
        {"tools": [{"type": "custom", "name": "f", "format": {"type": "grammar"}}]},
        "tools[0].format",
    ),
    ({"tools": {}}, "tools"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
    ({"tools": TOOLS, "tool_choice": {"type": "file_search"}}, "tool_choice.type"),
    ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "x"}}, "tool_choice.mode"),
    (
        {
            "tools": TOOLS,
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "x"}],
            },
        },
        "tool_choice.tools[0].name",
    ),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"include": ["everything"]}, "include[0]"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"n": 2}, "n"),
    ({"messages": [user("x")]}, "messages"),
    ({"background": True, "store": False}, "background"),
    ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
    ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
    ({"metadata": {"a": "x" * 513}}, "metadata"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"previous_response_id": "resp_no"}, "previous_response_id"),
    ({"truncation": "some"}, "truncation"),
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 3}, "input"),
    ({"input": [3]}, "input[0]"),
    ({"input": [{"type": "computer_call"}]}, "input[0]"),
    ({"input": [{"role": "tool", "content": ""}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
    ({"input": [user("x"), RESULT]}, "input[1].call_id"),
    ({"input": [{"type": "item_reference", "id": "msg_no"}]}, "input[0].id"),
    ({"input": [{**CALL, "name": ""}]}, "input[0].name"),
    ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
async def test_refused_by_name(start: StartServer, fields: dict[str, Any], param: str) -> None:
    server = await start(dialect=DIALECT)
    for is_streamed in (False, True):
        reply = await respond(server, **{**fields, "stream": is_streamed})
        error = reply.json()["error"]
        assert (reply.status_code, error["type"]) == (400, "invalid_request_error")
        assert error["param"] == param
        assert param in error["message"] or param == "previous_response_id"
    assert server.engine.requests == []


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"messages": [user("x")]}, "input"),
        ({"max_completion_tokens": 5}, "max_output_tokens"),
        ({"max_tokens": 5}, "max_output_tokens"),
        ({"reasoning_effort": "low"}, "reasoning.effort"),
        ({"response_format": {"type": "text"}}, "text.format"),
        ({"logprobs": True}, "include"),
    ],
)
async def test_names_of_chats_are_told_what_they_are_called_here(
    start: StartServer, fields: dict[str, Any], name: str
) -> None:
    error = (await respond(await start(), **fields)).json()["error"]
    assert error["param"] == next(iter(fields))
    assert f"Use '{name}'." in error["message"]


class SmallEngine(FakeEngine):
    """Refuses prompts that leave no room in a context of its own."""

    context_length = 400

    async def wait_ready(self) -> Any:
        ready = await super().wait_ready()
        return msgspec.structs.replace(
            ready, context_length=self.context_length, num_pages=1, page_size=self.context_length
        )

    def _check(self, request: Any) -> None:
        super()._check(request)
        if len(request.prompt_ids) >= self.context_length:
            raise ContextLengthExceeded("too long", param="prompt")


async def test_truncation_drops_the_oldest_turns(start: StartServer) -> None:
    server = await start(engine=SmallEngine())
    turns = [
        message
        for i in range(20)
        for message in (user(f"Question {i}?"), {"role": "assistant", "content": f"Answer {i}."})
    ]
    items = [*turns, user("Last?")]
    fields = {"input": items, "instructions": "Be kind.", "max_output_tokens": 50}
    refused = await respond(server, **fields)
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert refused.json()["error"]["param"] == "input"

    await ask(server, False, **fields, truncation="auto")
    prompt = server.engine.requests[-1].prompt_ids
    assert len(prompt) + 50 <= 400
    messages = json.loads(
        TOKENIZER.decode(prompt, skip_special_tokens=False)
    )  # as the renderer of this test writes them
    assert messages[0] == {"role": "system", "content": "Be kind."}
    assert messages[1:] == items[-len(messages[1:]) :]
    assert messages[1]["role"] == "user"
    one_more = [messages[0], *items[-len(messages[1:]) - 2 :]]
    assert len(FakeRenderer().render(one_more)) + 50 > 400  # it dropped no turn too many


async def test_last_turn_too_long(start: StartServer) -> None:
    server = await start(engine=SmallEngine())
    items = [user("a"), {"role": "assistant", "content": "b"}, user("x" * 500)]
    reply = await respond(server, input=items, truncation="auto")
    assert reply.json()["error"]["code"] == "context_length_exceeded"
    assert server.engine.requests == []


async def test_input_tokens(start: StartServer) -> None:
    server = await start()
    body = {"model": "toy", "input": "Hi", "instructions": "Be kind."}
    reply = await server.http.post("/v1/responses/input_tokens", json=body)
    counted = reply.json()
    used = (await respond(server, instructions="Be kind.")).json()["usage"]["input_tokens"]
    assert counted == {"object": "response.input_tokens", "input_tokens": used}
    assert len(server.engine.requests) == 1
