"""What /tokenize says is what the engine is sent, and /detokenize turns it back."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from llmplug.chat.channels import Dialect
from llmplug.dialect import JsonCalls, in_template
from llmplug.server import fit_prompt
from llmplug.specs import ToolParserSpec

from .conftest import Running, StartServer
from .fake_engine import CONTEXT_LENGTH, EOS, TOKENIZER, ids_of

DIALECT = Dialect(
    None,
    ToolParserSpec(
        name="toy",
        detect=in_template("x"),
        syntax=(JsonCalls(start=("<tool_call>",), end="</tool_call>"),),
    ),
)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
MESSAGES = [{"role": "user", "content": "Hi"}]
NUM_CACHED = 160  # tokens that the engine has pages for


async def tokenize(server: Running, **fields: Any) -> httpx.Response:
    return await server.http.post("/tokenize", json={"model": "toy", **fields})


async def detokenize(server: Running, tokens: Any, **fields: Any) -> httpx.Response:
    body = {"model": "toy", "tokens": tokens, **fields}
    return await server.http.post("/detokenize", json=body)


@pytest.mark.parametrize("text", ["", "Once", "né \U0001f600", f"a{EOS}b", "x" * 5000])
async def test_a_text_has_the_tokens_that_a_completion_sends(start: StartServer, text: str) -> None:
    server = await start()
    body = (await tokenize(server, prompt=text)).json()
    assert body == {
        "count": len(body["tokens"]),
        "max_model_len": CONTEXT_LENGTH,
        "tokens": body["tokens"],
        "token_strs": None,
    }
    if text:
        await server.complete(prompt=text)
        sent = server.engine.requests[0].prompt_ids
        # Of a prompt beyond the context not all is sent: it is refused anyway.
        assert sent == body["tokens"][: len(sent)]
        assert len(sent) == len(body["tokens"]) or len(sent) > 2 * NUM_CACHED
    assert (await detokenize(server, body["tokens"])).json() == {"prompt": text}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": TOOLS},
        {"chat_template_kwargs": {"x": 1}},
        {"add_generation_prompt": False},
        {"continue_final_message": True},
        {"documents": [{"text": "b"}]},
    ],
)
async def test_a_conversation_has_the_prompt_of_its_chat(
    start: StartServer, fields: dict[str, Any]
) -> None:
    server = await start(dialect=DIALECT)
    body = (await tokenize(server, messages=MESSAGES, **fields)).json()
    assert (await server.chat(messages=MESSAGES, **fields)).status_code == 200
    told, chatted = server.renderer.calls
    assert told == chatted
    assert body["tokens"] == server.engine.requests[0].prompt_ids
    assert body["count"] == len(body["tokens"])


async def test_tokens_go_by_their_names(start: StartServer) -> None:
    server = await start()
    body = (await tokenize(server, prompt=f"a b{EOS}", return_token_strs=True)).json()
    assert body["token_strs"] == ["a", "\u0120", "b", EOS]


async def test_special_tokens_can_be_left_out(start: StartServer) -> None:
    server = await start()
    ids = [*ids_of("a"), TOKENIZER.eos_token_id]
    assert (await detokenize(server, ids, skip_special_tokens=True)).json() == {"prompt": "a"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": MESSAGES}, "messages"),
        ({"prompt": "a", "tools": TOOLS}, "tools"),
        ({"prompt": ["a"]}, "prompt"),
        ({"prompt": "a", "add_special_tokens": "no"}, "add_special_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": MESSAGES, "tools": TOOLS}, "tools"),  # nothing is known of its calls
        ({"messages": MESSAGES, "chat_template": "x"}, "chat_template"),
        (
            {"messages": MESSAGES, "chat_template_kwargs": {"tools": 1}},
            "chat_template_kwargs.tools",
        ),
        ({"messages": MESSAGES, "add_special_tokens": True}, "add_special_tokens"),
    ],
)
async def test_refusals_name_the_field(
    start: StartServer, fields: dict[str, Any], param: str
) -> None:
    response = await tokenize(await start(), **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("tokens", "param"),
    [
        ([1, -1], "tokens[1]"),
        ([TOKENIZER.vocab_size], "tokens[0]"),
        ([2**70], "tokens[0]"),
        ([1, True], "tokens[1]"),
        ([1.5], "tokens[0]"),
        ("a", "tokens"),
        (None, "tokens"),
    ],
)
async def test_ids_are_checked(start: StartServer, tokens: Any, param: str) -> None:
    response = await detokenize(await start(), tokens)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_fields_without_effect_are_listed(start: StartServer) -> None:
    server = await start()
    response = await tokenize(server, prompt="a", media_io_kwargs={}, temperature=1)
    assert response.headers["X-Llmplug-Ignored"] == "media_io_kwargs, temperature"


async def test_they_need_a_key_and_count_as_requests(start: StartServer) -> None:
    server = await start(api_keys=({"key": "few", "requests_per_minute": 0.5},))
    assert (await tokenize(server, prompt="a")).status_code == 401
    answers = [
        await server.http.post(
            "/tokenize", json={"model": "toy", "prompt": "a"}, headers={"x-api-key": "few"}
        )
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 429]


async def test_no_engine_is_needed(start: StartServer) -> None:
    server = await start(wait_ready=False)
    server.engine.state = "dead"
    assert (await tokenize(server, prompt="ab")).json()["tokens"] == ids_of("ab")


async def test_more_tokens_than_are_counted_are_refused(
    start: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_prompt, "COUNTED_TOKENS", 1000)
    monkeypatch.setattr(fit_prompt, "find_context", lambda _: 100)
    server = await start()
    assert (await tokenize(server, prompt="x" * 2000)).json()["count"] == 2000
    refused = await tokenize(server, prompt="x" * 5000)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
    assert "more than 2000 tokens" in error["message"]
