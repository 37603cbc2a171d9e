"""Every property of OpenAI's other requests: taken, and refused by its name where it cannot be.

Chats and completions stand in `test_openai_fields.py`. Where a copy of OpenAI's published
description lies at hand (`OPENAI_DESCRIPTION=path`), the names of all tables are held against it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmplug.config import BatchesConfig
from llmplug.pooling import Pooling

from .batch_client import write_lines
from .conftest import Running, StartServer
from .test_openai_fields import CHAT, COMPLETIONS
from .test_tools import DIALECT

PUBLISHED = os.environ.get("OPENAI_DESCRIPTION", "")
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
NEVER = object()  # no value of this field is refused: it changes nothing that a client could see

# Of each property: a value that is taken, and one that is refused by its name.
INPUT_TOKENS: dict[str, tuple[Any, Any]] = {
    "conversation": (None, 3),
    "input": ("Hi", 3),
    "instructions": ("Be brief.", 3),
    "model": ("toy", "other"),
    "parallel_tool_calls": (True, "x"),
    "personality": (None, "friendly"),
    "previous_response_id": (None, "resp_none"),
    "reasoning": ({"summary": "auto"}, {"summary": "detailed"}),
    "text": ({"format": {"type": "text"}}, {"verbosity": "high"}),
    "tool_choice": ("none", "x"),
    "tools": ([TOOL], [{"type": "web_search"}]),
    "truncation": ("auto", "x"),
}
RESPONSES: dict[str, tuple[Any, Any]] = {
    **INPUT_TOKENS,
    "background": (False, "x"),
    "context_management": ([], [{"type": "compaction", "compact_threshold": 1000}]),
    "include": (["message.output_text.logprobs"], ["other"]),
    "max_output_tokens": (5, 0),
    "max_tool_calls": (3, "x"),
    "metadata": ({"a": "b"}, {"a": 3}),
    "moderation": (None, {"model": "omni"}),
    "prompt": (None, {"id": "pmpt_1"}),
    "prompt_cache_key": ("a", 3),
    "prompt_cache_options": ({"mode": "implicit"}, NEVER),
    "prompt_cache_retention": ("24h", NEVER),
    "safety_identifier": ("a", 3),
    "service_tier": ("auto", "priority"),
    "store": (True, "x"),
    "stream": (False, "x"),
    "stream_options": (None, {"include_obfuscation": False}),  # without `stream`
    "temperature": (0.5, "x"),
    "top_logprobs": (None, 2),  # without `include`
    "top_p": (0.5, "x"),
    "user": ("a", 3),
}
EMBEDDINGS: dict[str, tuple[Any, Any]] = {
    "dimensions": (3, 0),
    "encoding_format": ("base64", "x"),
    "input": (["a"], []),
    "model": ("toy", "other"),
    "user": ("a", 3),
}
BATCHES: dict[str, tuple[Any, Any]] = {
    "completion_window": ("24h", "1h"),
    "endpoint": ("/v1/chat/completions", "/v1/moderations"),
    "input_file_id": (None, "file-none"),  # the good one is made by the test
    "metadata": ({"a": "b"}, {"a": 3}),
    "output_expires_after": (
        {"anchor": "created_at", "seconds": 3600},
        {"anchor": "created_at", "seconds": 1},
    ),
}
FILES: dict[str, tuple[Any, Any]] = {
    "expires_after": (
        {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"},
        {"expires_after[anchor]": "created_at", "expires_after[seconds]": "1"},
    ),
    "file": (None, None),  # the one of the test, and none
    "purpose": ({"purpose": "batch"}, {"purpose": "fine-tune"}),
}
# What stands in an object: a value that is taken, and one that is refused by its path.
NESTED: dict[str, tuple[Any, Any]] = {
    "reasoning.context": ("auto", "all_turns"),
    "reasoning.effort": (None, "extreme"),  # the model of these tests does not think
    "reasoning.generate_summary": ("auto", "concise"),
    "reasoning.mode": ("standard", "pro"),
    "reasoning.summary": ("auto", "detailed"),
    "text.format": ({"type": "text"}, {"type": "xml"}),
    "text.verbosity": ("medium", "low"),
}


def check_refusal(response: httpx.Response, name: str) -> None:
    error = response.json()["error"]
    assert response.status_code in (400, 404), error
    assert (error["param"] or name).startswith(name)
    assert name in error["message"] or name in ("model", "file")


def check_taken(response: httpx.Response) -> None:
    assert response.status_code == 200, response.text
    assert "X-Llmplug-Ignored" not in response.headers


@pytest.mark.parametrize(
    ("path", "name"),
    [("/v1/responses", name) for name in RESPONSES]
    + [("/v1/responses/input_tokens", name) for name in INPUT_TOKENS],
)
async def test_responses(start: StartServer, path: str, name: str) -> None:
    is_of_tools = name in ("tools", "tool_choice")
    server = await start(dialect=DIALECT if is_of_tools else None)
    good, bad = RESPONSES[name]
    body = {"model": "toy", "input": "Hi"}
    more = {"tools": [TOOL]} if is_of_tools else {}
    check_taken(await server.http.post(path, json={**body, **more, name: good}))
    if bad is not NEVER:
        check_refusal(await server.http.post(path, json={**body, **more, name: bad}), name)


@pytest.mark.parametrize("name", NESTED)
async def test_parts_of_responses(start: StartServer, name: str) -> None:
    server = await start()
    whole, _, part = name.partition(".")
    good, bad = NESTED[name]
    body = {"model": "toy", "input": "Hi"}
    check_taken(await server.http.post("/v1/responses", json={**body, whole: {part: good}}))
    refused = await server.http.post("/v1/responses", json={**body, whole: {part: bad}})
    check_refusal(refused, name)
    unknown = await server.http.post("/v1/responses", json={**body, whole: {"other": 1}})
    check_refusal(unknown, f"{whole}.other")


@pytest.mark.parametrize("name", EMBEDDINGS)
async def test_embeddings(start: StartServer, name: str) -> None:
    server = await start(task="embed", pooling=Pooling(kind="mean", is_normalised=True))
    good, bad = EMBEDDINGS[name]
    body = {"model": "toy", "input": "a"}
    check_taken(await server.http.post("/v1/embeddings", json={**body, name: good}))
    check_refusal(await server.http.post("/v1/embeddings", json={**body, name: bad}), name)


async def upload(server: Running, form: dict[str, str], *, has_file: bool = True) -> httpx.Response:
    data = write_lines({"model": "toy", "messages": [{"role": "user", "content": "Hi"}]})
    files: Any = {"file": ("in.jsonl", data)} if has_file else {"other": ("in.jsonl", data)}
    return await server.http.post("/v1/files", files=files, data=form)


@pytest.mark.parametrize("name", FILES)
async def test_files(start: StartServer, tmp_path: Path, name: str) -> None:
    server = await start(batches=BatchesConfig(path=str(tmp_path)))
    good, bad = FILES[name]
    form = {"purpose": "batch"}
    check_taken(await upload(server, {**form, **(good or {})}))
    has_file = name != "file"
    check_refusal(await upload(server, {**form, **(bad or {})}, has_file=has_file), name)


@pytest.mark.parametrize("name", BATCHES)
async def test_batches(start: StartServer, tmp_path: Path, name: str) -> None:
    server = await start(batches=BatchesConfig(path=str(tmp_path)))
    file = (await upload(server, {"purpose": "batch"})).json()
    good, bad = BATCHES[name]
    endpoint = "/v1/chat/completions"
    body = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h"}
    check_taken(await server.http.post("/v1/batches", json={**body, name: good or body[name]}))
    check_refusal(await server.http.post("/v1/batches", json={**body, name: bad}), name)


@pytest.mark.skipif(not PUBLISHED, reason="OPENAI_DESCRIPTION names no file")
def test_the_tables_have_every_published_name() -> None:
    published = json.loads(Path(PUBLISHED).read_text(encoding="utf-8"))
    schemas = published["components"]["schemas"]

    def list_names(schema: Any) -> set[str]:
        if "$ref" in schema:
            schema = schemas[schema["$ref"].rpartition("/")[2]]
        parts = [each for key in ("allOf", "anyOf", "oneOf") for each in schema.get(key, ())]
        return set(schema.get("properties", ())).union(*map(list_names, parts))

    for path, table in (
        ("/chat/completions", CHAT),
        ("/completions", COMPLETIONS),
        ("/responses", RESPONSES.keys() - {"personality"}),
        ("/responses/input_tokens", INPUT_TOKENS),
        ("/embeddings", EMBEDDINGS),
        ("/batches", BATCHES),
        ("/files", FILES),
    ):
        (content,) = [
            each
            for kind, each in published["paths"][path]["post"]["requestBody"]["content"].items()
            if kind in ("application/json", "multipart/form-data")
        ]
        assert list_names(content["schema"]) == set(table), path
    parts = {f"reasoning.{name}" for name in list_names(schemas["Reasoning"])}
    parts |= {f"text.{name}" for name in list_names(schemas["ResponseTextParam"])}
    assert parts == set(NESTED)
