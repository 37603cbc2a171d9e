"""Replies of every route, held against what /openapi.json says of them: nothing more, nothing less.

Where a copy of OpenAI's published description lies at hand (`OPENAI_DESCRIPTION=path`), replies of
OpenAI's routes are held against that too.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from array import array
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from llmplug.config import BatchesConfig
from llmplug.pooling import Pooling
from llmplug.types import FinishReason

from .batch_client import write_lines
from .closed_schema import ClosedSchemas, Json
from .conftest import DEADLINE_S, Running, StartServer, until
from .fake_engine import silent, speak
from .test_responses import TOOLS as RESPONSE_TOOLS
from .test_responses_requests import user
from .test_strict_replies import without_ours
from .test_tools import DIALECT, TOOLS, write_call

Replies = list[tuple[str, str, httpx.Response]]  # method, path as described
MESSAGES = [{"role": "user", "content": "Hi"}]
TOLD = {"return_token_ids": True, "prompt_logprobs": 1, "timings": True, "stop": "never"}
OURS_OF_MODELS = {"aliases", "max_model_len", "state", "task"}
PUBLISHED = os.environ.get("OPENAI_DESCRIPTION", "")


class Caller:
    """Asks, and remembers what came back, by route."""

    def __init__(self, server: Running) -> None:
        self.server = server
        self.replies: Replies = []

    async def __call__(self, method: str, path: str, body: Any = None, **ids: str) -> Any:
        url = path.format(**ids)
        return await self.note(path, self.server.http.request(method, url, json=body))

    async def note(self, path: str, answer: Awaitable[httpx.Response]) -> Any:
        response = await answer
        assert response.is_success, response.text
        method = response.request.method.lower()
        self.replies.append((method, path, response))
        is_json = response.headers["content-type"] == "application/json"
        return response.json() if is_json else response.content


async def call_generation(start: StartServer, folder: Path) -> Caller:
    """Chats, completions and messages, with all that can be told of them."""
    server = await start(speak("<think>", "Well", ".</think>", "Four."), dialect=DIALECT)
    call = Caller(server)
    calling = speak("Well.\n", write_call("time", city="Oslo"))
    for script in (server.engine.script, calling, speak("a", finish=FinishReason.LENGTH)):
        server.engine.script = script
        tools = TOOLS if script is calling else None
        for fields in ({}, TOLD, {"logprobs": True, "top_logprobs": 2, **TOLD}):
            body = {"model": "toy", "messages": MESSAGES, "tools": tools, **fields}
            await call("POST", "/v1/chat/completions", body)
        if tools:
            old = {"functions": [each["function"] for each in tools]}
            await call(
                "POST", "/v1/chat/completions", {"model": "toy", "messages": MESSAGES, **old}
            )
        for fields in ({}, TOLD, {"logprobs": 2, "echo": True, **TOLD}):
            await call("POST", "/v1/completions", {"model": "toy", "prompt": "a", **fields})
        named = [
            {"name": each["function"]["name"], "input_schema": each["function"]["parameters"]}
            for each in tools or ()
        ]
        body = {"model": "toy", "messages": MESSAGES, "tools": named}
        await call("POST", "/v1/messages", {**body, "max_tokens": 50})
        await call("POST", "/v1/messages/count_tokens", body)
    return call


async def call_responses(start: StartServer, folder: Path) -> Caller:
    """Responses with every kind of item, kept and forgotten, and a conversation."""
    server = await start(speak("<think>", "Well", ".</think>", "Four."), dialect=DIALECT)
    call = Caller(server)
    every, one = "/v1/responses", "/v1/responses/{response_id}"
    body: Json = {"model": "toy", "input": "Hi"}
    more = {"include": ["message.output_text.logprobs"], "top_logprobs": 1, "user": "me"}
    made = await call("POST", every, {**body, **more, "metadata": {"a": "b"}})
    server.engine.script = speak("Well.\n", write_call("time", city="Oslo"))
    custom = [{"type": "custom", "name": "time"}]
    called = await call("POST", every, {**body, "tools": RESPONSE_TOOLS})
    await call("POST", every, {**body, "tools": custom})
    (call_id,) = [each["call_id"] for each in called["output"] if "call_id" in each]
    result = {"type": "function_call_output", "call_id": call_id, "output": "noon"}
    server.engine.script = speak("ab", finish=FinishReason.LENGTH)
    last = await call(
        "POST",
        every,
        {"model": "toy", "input": [result, user("x")], "previous_response_id": called["id"]},
    )
    await call("POST", f"{every}/input_tokens", body)
    await call("POST", f"{every}/compact", body)
    await call("GET", f"{one}/input_items", response_id=last["id"])
    await call("GET", one, response_id=made["id"])
    await call("DELETE", one, response_id=made["id"])
    server.engine.script = silent
    running = await call("POST", every, {**body, "background": True})
    await call("POST", f"{one}/cancel", response_id=running["id"])
    await _call_conversations(call)
    return call


async def _call_conversations(call: Caller) -> None:
    every, one = "/v1/conversations", "/v1/conversations/{conversation_id}"
    given = [
        user("x"),
        {"role": "assistant", "content": "y", "phase": "commentary"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "noon"},
        {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "z"},
        {"type": "custom_tool_call_output", "call_id": "d", "output": "late"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "h"}]},
    ]
    made = await call("POST", every, {"metadata": {"a": "b"}})
    name = {"conversation_id": made["id"]}
    page = await call("POST", f"{one}/items", {"items": given}, **name)
    await call("GET", one, **name)
    await call("POST", one, {"metadata": {"c": "d"}}, **name)
    await call("GET", f"{one}/items", **name)
    for item in page["data"]:
        await call("GET", f"{one}/items/{{item_id}}", item_id=item["id"], **name)
    await call("DELETE", f"{one}/items/{{item_id}}", item_id=page["first_id"], **name)
    await call("DELETE", one, **name)


async def call_files(start: StartServer, folder: Path) -> Caller:
    """A file, a batch of it that ends, one that fails, one that is cancelled."""
    server = await start(speak("Hello"), batches=BatchesConfig(path=str(folder)))
    call = Caller(server)
    one, batch = "/v1/files/{file_id}", "/v1/batches/{batch_id}"

    async def upload(data: bytes) -> Any:
        form: Any = {"files": {"file": ("a.jsonl", data)}, "data": {"purpose": "batch"}}
        return await call.note("/v1/files", server.http.post("/v1/files", **form))

    async def begin(file: Json, **fields: Any) -> Any:
        asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **fields}
        return await call("POST", "/v1/batches", {"input_file_id": file["id"], **asked})

    async def is_over(made: Json) -> bool:
        return (await call("GET", batch, batch_id=made["id"]))["status"] in ("completed", "failed")

    good = await upload(write_lines({"model": "toy", "messages": MESSAGES}))
    for made in (await begin(good, metadata={"a": "b"}), await begin(await upload(b"no json"))):
        async with asyncio.timeout(DEADLINE_S):
            while not await is_over(made):
                pass
    server.engine.script = silent
    running = await begin(good)
    await until(lambda: server.num_in_flight == 1)
    await call("POST", f"{batch}/cancel", batch_id=running["id"])
    await call("GET", "/v1/batches")
    await call("GET", "/v1/files")
    await call("GET", one, file_id=good["id"])
    await call("GET", f"{one}/content", file_id=good["id"])
    spare = await upload(b"{}")
    await call("DELETE", one, file_id=spare["id"])
    return call


async def call_texts(start: StartServer, folder: Path) -> Caller:
    """Vectors, scores, tokens."""
    server = await start(task="embed", pooling=Pooling(kind="mean", is_normalised=True))
    call = Caller(server)
    for form in ("float", "base64"):
        body = {"model": "toy", "input": ["ab", "c"], "encoding_format": form}
        await call("POST", "/v1/embeddings", body)
        await call("POST", "/pooling", body)
        await call("POST", "/pooling", {**body, "task": "token_embed"})
    texts = {"model": "toy", "texts": ["ab"], "input_type": "search_document"}
    kinds = ["float", "base64"]
    await call("POST", "/v2/embed", {**texts, "embedding_types": kinds})
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        for fields in ({}, {"return_documents": False}):
            body = {"model": "toy", "query": "a", "documents": ["b", "cd"], **fields}
            await call("POST", path, body)
    for path in ("/v1/score", "/score"):
        await call("POST", path, {"model": "toy", "text_1": "a", "text_2": ["b", "cd"]})
    tokens = await call(
        "POST", "/tokenize", {"model": "toy", "prompt": "ab", "return_token_strs": True}
    )
    await call("POST", "/detokenize", {"model": "toy", "tokens": tokens["tokens"]})
    return call


async def call_classes(start: StartServer, folder: Path) -> Caller:
    """Probabilities of labels."""
    call = Caller(await start(task="classify", labels=("good",)))
    for path in ("/v1/classify", "/classify", "/pooling"):
        await call("POST", path, {"model": "toy", "input": ["ab", "c"]})
    return call


async def call_service(start: StartServer, folder: Path) -> Caller:
    """What a server says of itself."""
    call = Caller(await start())
    for path in (
        *("/live", "/ready", "/health", "/version", "/metrics", "/docs", "/openapi.json"),
        *("/v1/models", "/v1/samplers"),
    ):
        await call("GET", path)
    await call("GET", "/v1/models/{model}", model="org/toy")
    return call


FAMILIES = [
    call_generation, call_responses, call_files, call_texts, call_classes, call_service,
]  # fmt: skip
MakeCalls = Callable[[StartServer, Path], Awaitable[Caller]]


@pytest.mark.parametrize("make_calls", FAMILIES)
async def test_replies_are_as_described(
    start: StartServer, tmp_path: Path, make_calls: MakeCalls
) -> None:
    call = await make_calls(start, tmp_path)
    api = (await call.server.http.get("/openapi.json")).json()
    schemas = ClosedSchemas(api)
    for method, path, response in call.replies:
        content = api["paths"][path][method]["responses"]["200"]["content"]
        media_type = response.headers["content-type"].partition(";")[0]
        assert media_type in content
        if media_type == "application/json":
            schemas.check(response.json(), content[media_type]["schema"])


async def test_no_route_is_left_out(start: StartServer, tmp_path: Path) -> None:
    called, described = set(), set()
    for make_calls in FAMILIES:
        call = await make_calls(start, tmp_path)
        called |= {(method, path) for method, path, _ in call.replies}
        api = (await call.server.http.get("/openapi.json")).json()
        described |= {(method, path) for path, ways in api["paths"].items() for method in ways}
    assert called == described


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "toy"}),
        ("/v1/messages", {"model": "toy"}),
        ("/v1/messages/count_tokens", {"model": "none", "messages": []}),
        ("/v2/embed", {}),
        ("/v2/rerank", {"model": "none"}),
        ("/v1/rerank", {"model": "none"}),
        ("/v1/responses", {"model": "toy", "input": 3}),
    ],
)
async def test_refusals_are_as_described(start: StartServer, path: str, body: Json) -> None:
    server = await start()
    api = (await server.http.get("/openapi.json")).json()
    response = await server.http.post(path, json=body)
    assert response.is_client_error
    content = api["paths"][path]["post"]["responses"]["4XX"]["content"]
    ClosedSchemas(api).check(response.json(), content["application/json"]["schema"])


@pytest.mark.skipif(not PUBLISHED, reason="OPENAI_DESCRIPTION names no file")
@pytest.mark.parametrize("make_calls", FAMILIES)
async def test_replies_are_as_published(
    start: StartServer, tmp_path: Path, make_calls: MakeCalls
) -> None:
    published = _read_published()
    schemas = ClosedSchemas(published)
    call = await make_calls(start, tmp_path)
    for method, path, response in call.replies:
        answer = published["paths"].get(path.removeprefix("/v1"), {}).get(method)
        is_json = response.headers["content-type"] == "application/json"
        if path.startswith("/v1/") and answer is not None and is_json:
            content = answer["responses"]["200"].get("content")
            if content is not None:  # of a deletion nothing is said
                reply = _drop_ours(path, response.json())
                schemas.check(reply, content["application/json"]["schema"])


def _read_published() -> Json:
    published: Json = json.loads(Path(PUBLISHED).read_text(encoding="utf-8"))
    return published


def _drop_ours(path: str, reply: Json) -> Json:
    """A reply as a client that knows OpenAI's description alone reads it.

    Nulls that OpenAI sends, and its description leaves out, are taken out too.
    """
    if path == "/v1/chat/completions":
        return without_ours(reply, "choice")
    if path == "/v1/completions":
        return _fill_first_logprob(without_ours(reply, "completion"))
    if path.startswith("/v1/models"):
        return _map_data(reply, lambda card: _without(card, OURS_OF_MODELS))
    if path.startswith("/v1/responses"):  # one that is not finished has no usage
        return _without(reply, _list_nulls(reply) & {"usage", "user"})
    if path.startswith("/v1/batches"):
        return _map_data(reply, lambda batch: _without(batch, _list_nulls(batch)))
    if path == "/v1/embeddings":  # base64, which clients ask for, is not in the description
        return _map_data(
            reply, lambda each: {**each, "embedding": _read_numbers(each["embedding"])}
        )
    return reply


def _map_data(reply: Json, change: Callable[[Json], Json]) -> Json:
    """Change what a list holds, or what is no list."""
    if reply["object"] != "list":
        return change(reply)
    return {**reply, "data": [change(each) for each in reply["data"]]}


def _without(fields: Json, names: set[str]) -> Json:
    return {name: value for name, value in fields.items() if name not in names}


def _list_nulls(fields: Json) -> set[str]:
    return {name for name, value in fields.items() if value is None}


def _fill_first_logprob(reply: Json) -> Json:
    """With `echo` nothing stands before the first token: it has no log-probability."""
    for choice in reply["choices"]:
        logprobs = choice["logprobs"]
        if logprobs is not None:
            logprobs["token_logprobs"] = [each or 0.0 for each in logprobs["token_logprobs"]]
            logprobs["top_logprobs"] = [each or {} for each in logprobs["top_logprobs"]]
    return reply


def _read_numbers(embedding: Any) -> list[float]:
    if isinstance(embedding, str):
        return array("f", base64.b64decode(embedding)).tolist()
    return list(embedding)


def test_closed_schemas_refuse_what_they_do_not_name() -> None:
    part = {"type": "object", "properties": {"b": {"type": "integer"}}}
    whole = {"allOf": [part, {"properties": {"c": {"anyOf": [part, {"type": "null"}]}}}]}
    schemas = ClosedSchemas({"components": {"schemas": {"Whole": whole}}})
    reference = {"type": "array", "items": {"$ref": "#/components/schemas/Whole"}}
    schemas.check([{"b": 1, "c": {"b": 2}}, {"c": None}], reference)
    for wrong in ([{"d": 1}], [{"c": {"d": 1}}], [{"c": {"b": "x"}}]):
        with pytest.raises(jsonschema.ValidationError):
            schemas.check(wrong, reference)
