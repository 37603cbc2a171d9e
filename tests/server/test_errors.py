"""Every refusal: the right status, OpenAI's shape, and nothing of our inside."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest

from .conftest import Running, StartServer, chat_fields

JSON = {"Content-Type": "application/json"}
POST_HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def check_shape(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    for secret in ("Traceback", "/work", "site-packages", "0x", "sanic", "Sanic", "pydantic"):
        assert secret not in response.text
    return error


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
        ("POST", "/v1/images/generations", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/absent", 404, "model_not_found"),
        ("GET", "/v1/models/%2e%2e%2fetc", 404, "model_not_found"),
    ],
)
async def test_unknown_places(
    start: StartServer, method: str, path: str, status: int, code: str
) -> None:
    server = await start()
    response = await server.http.request(method, path)
    assert response.status_code == status
    assert check_shape(response)["code"] == code


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'{"model": "toy", "temperature": NaN}',
        b'{"model": "toy", "temperature": Infinity}',
        b'{"model": "toy", "temperature": 1e999}',
        b'{"model": "toy", "prompt": "\\ud800"}',
        b'{"model": "toy", "prompt": "\xff"}',
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"{} {}",
    ],
)
async def test_bad_json(start: StartServer, body: bytes) -> None:
    server = await start()
    for path in ("/v1/chat/completions", "/v1/completions"):
        response = await server.http.post(path, content=body, headers=JSON)
        assert response.status_code == 400
        check_shape(response)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_wrong_content_type(start: StartServer, kind: str) -> None:
    server = await start()
    response = await server.http.post(
        "/v1/completions", content=b"{}", headers={"Content-Type": kind}
    )
    assert response.status_code == 415
    assert check_shape(response)["code"] == "unsupported_media_type"


async def test_content_type_may_name_a_charset(start: StartServer) -> None:
    server = await start()
    response = await server.http.post(
        "/v1/completions",
        content=b'{"model": "toy", "prompt": "a"}',
        headers={"Content-Type": "Application/JSON; charset=utf-8"},
    )
    assert response.status_code == 200


async def test_body_has_a_bound(start: StartServer) -> None:
    server = await start(max_body_bytes=10_000)

    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 1000

    for content in (b" " * 10_001, endless()):
        response = await server.http.post("/v1/completions", content=content, headers=JSON)
        assert response.status_code == 413
        assert check_shape(response)["code"] == "request_too_large"
    assert (await server.complete()).status_code == 200


FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": None}, "model", "missing_required_parameter"),
    ({"model": 5}, "model", "invalid_type"),
    ({"messages": None}, "messages", "invalid_type"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": "hi"}, "messages", "invalid_type"),
    ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
    ({"messages": [{"content": "a"}]}, "messages[0].role", "missing_required_parameter"),
    ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": {}, "content": "a"}]}, "messages[0].role", "invalid_value"),
    (
        {"messages": [{"role": "function", "name": "f", "content": "a"}]},
        "messages[0].name",
        "invalid_value",
    ),
    (
        {"messages": [{"role": "tool", "content": "a"}]},
        "messages[0].tool_call_id",
        "missing_required_parameter",
    ),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content[0]",
        "unsupported_parameter",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
        "messages[0].content[0].text",
        "invalid_type",
    ),
    (
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
        "messages[0].tool_calls[0].id",
        "missing_required_parameter",
    ),
    ({"temperature": "1"}, "temperature", "invalid_type"),
    ({"temperature": True}, "temperature", "invalid_type"),
    ({"temperature": 3}, "temperature", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 1.5}, "n", "invalid_type"),
    ({"n": True}, "n", "invalid_type"),
    ({"n": 10**9}, "n", "invalid_value"),
    ({"n": 2**70}, "n", "invalid_value"),
    ({"n": -(2**70)}, "n", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ({"stop": 5}, "stop", "invalid_type"),
    ({"stop": ["a", 5]}, "stop", "invalid_type"),
    ({"stop": ""}, "stop", "invalid_value"),
    ({"stop": ["a"] * 1000}, "stop", "invalid_value"),
    ({"stop": "a" * 1025}, "stop", "invalid_value"),
    ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"1" * 100: 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"5": "x"}}, "logit_bias.5", "invalid_type"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"stream": True, "stream_options": 5}, "stream_options", "invalid_type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "invalid_type"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"functions": [{"name": "f"}], "tools": []}, "functions", "invalid_value"),
    ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "invalid_type"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "unsupported_parameter"),
    ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
    ({"guided_json": {}, "guided_regex": "a"}, "guided_regex", "unsupported_parameter"),
    ({"store": True}, "store", "unsupported_parameter"),
    ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
    ({"service_tier": "flex"}, "service_tier", "unsupported_parameter"),
    ({"chat_template": "{{ x }}"}, "chat_template", "unsupported_parameter"),
    ({"chat_template": 5}, "chat_template", "invalid_type"),
    ({"documents": {"text": "a"}}, "documents", "invalid_type"),
    ({"documents": [{}, "a"]}, "documents[1]", "invalid_type"),
    (
        {"chat_template_kwargs": {"messages": []}},
        "chat_template_kwargs.messages",
        "invalid_value",
    ),
    (
        {"chat_template_kwargs": {"tokenize": False}},
        "chat_template_kwargs.tokenize",
        "invalid_value",
    ),
    (
        {"add_generation_prompt": True, "continue_final_message": True},
        "continue_final_message",
        "invalid_value",
    ),
]


@pytest.mark.parametrize(("fields", "param", "code"), FIELDS)
async def test_chat_refusals(
    start: StartServer, fields: dict[str, Any], param: str, code: str
) -> None:
    server = await start()
    response = await server.chat(**fields)
    assert response.status_code == 400
    error = check_shape(response)
    assert (error["param"], error["code"]) == (param, code)
    assert server.engine.requests == []


async def test_missing_messages(start: StartServer) -> None:
    server = await start()
    response = await server.http.post("/v1/chat/completions", json={"model": "toy"})
    error = check_shape(response)
    assert error == {
        "message": "'messages' is required.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "missing_required_parameter",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tools": None, "tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"], "verbosity": "medium", "service_tier": "default"},
        {"parallel_tool_calls": True, "safety_identifier": "x", "prompt_cache_key": "k"},
        {"temperature": None, "n": None, "stop": None, "stream": None, "logit_bias": None},
        {"best_of": 1, "store": None, "reasoning_effort": None},
    ],
)
async def test_neutral_values_are_taken(start: StartServer, fields: dict[str, Any]) -> None:
    server = await start()
    response = await server.chat(**fields)
    assert response.status_code == 200
    assert "X-Llmplug-Ignored" not in response.headers


async def test_unknown_model(start: StartServer) -> None:
    server = await start()
    response = await server.chat(model="other")
    assert response.status_code == 404
    error = check_shape(response)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert (await server.chat(model="org/toy")).json()["model"] == "toy"


async def test_context_length_has_openai_code(start: StartServer) -> None:
    server = await start()
    for is_streamed in (False, True):
        response = await server.chat(
            messages=[{"role": "user", "content": "x" * 100_000}], stream=is_streamed
        )
        assert response.status_code == 400
        error = check_shape(response)
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


async def test_messages_are_bounded(start: StartServer) -> None:
    server = await start()
    for fields in ({"model": "x" * 100_000}, {"service_tier": "x" * 100_000}):
        response = await server.chat(**fields)
        assert len(response.content) < 2000
    names = {f"field{i}" * 100: 1 for i in range(1000)}
    response = await server.chat(**names)
    assert response.status_code == 200
    assert len(response.headers["X-Llmplug-Ignored"]) < 4000


@pytest.mark.parametrize(
    ("content", "num_messages", "param"),
    [
        ("a", 8193, "messages"),
        ([{"type": "text", "text": "a"}] * 32_769, 1, "messages[0].content"),
        ([{"type": "text", "text": "a"}] * 16_385, 2, "messages[1].content"),
    ],
)
async def test_messages_are_counted(
    start: StartServer, content: Any, num_messages: int, param: str
) -> None:
    server = await start()
    said = [{"role": "user", "content": content}] * num_messages
    response = await server.chat(messages=said)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert server.renderer.calls == []


async def test_long_prompts_of_ids_are_refused_unread(start: StartServer) -> None:
    server = await start()
    response = await server.complete(prompt=[1] * (2**21 + 1))
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")


async def test_openai_client_raises_its_own_exceptions(start: StartServer) -> None:
    server = await start()
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0
    ) as client:
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(
                model="toy", messages=[{"role": "user", "content": "Hi"}], temperature=9
            )
        assert bad.value.param == "temperature"
        with pytest.raises(openai.NotFoundError) as missing:
            await client.models.retrieve("absent")
        assert missing.value.code == "model_not_found"


async def raw_exchange(server: Running, data: bytes) -> bytes:
    """Send bytes as they are; return all that comes back."""
    reader, writer = await asyncio.open_connection(*server.host_port)
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"GET /%zz\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET /live HTTP/9.9\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", b"413"),
        (
            POST_HEAD + b"Content-Length: abc\r\n\r\n",
            b"400",
        ),
        (
            POST_HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n",
            b"400",
        ),
    ],
)
async def test_malformed_http(start: StartServer, data: bytes, status: bytes) -> None:
    server = await start()
    answer = await raw_exchange(server, data)
    assert answer.split(b" ")[1] == status
    assert b'{"error":{' in answer
    assert b"Traceback" not in answer
    assert (await server.complete()).status_code == 200


async def test_request_id(start: StartServer) -> None:
    server = await start()
    given = await server.http.get("/live", headers={"X-Request-Id": "abc-1.2:3"})
    assert given.headers["X-Request-Id"] == "abc-1.2:3"
    for bad in ("a b", "x" * 129, "a\u00e9", ""):
        made = await server.http.get("/live", headers={"X-Request-Id": bad.encode()})
        assert len(made.headers["X-Request-Id"]) == 32
    refused = await server.http.get("/nowhere", headers={"X-Request-Id": "me"})
    assert refused.headers["X-Request-Id"] == "me"
    streamed = await server.http.post(
        "/v1/chat/completions", json=chat_fields(stream=True), headers={"X-Request-Id": "me"}
    )
    assert streamed.headers["X-Request-Id"] == "me"
