"""POST /v2/embed as Cohere's clients speak it."""

from __future__ import annotations

import base64
import random
from array import array
from typing import Any

import httpx
import numpy as np
import pytest

from llmplug.pooling import Pooling
from llmplug.server.schema.cohere import write_embeddings

from .conftest import Running, StartServer
from .fake_engine import ids_of
from .test_embeddings import numbers_of

POOLING = Pooling(
    kind="mean", is_normalised=True, prompts={"query": "Q: ", "passage": "P: "},
    default_prompt="query",
)  # fmt: skip


@pytest.fixture
async def server(start: StartServer) -> Running:
    return await start(task="embed", pooling=POOLING)


async def embed(server: Running, **fields: Any) -> httpx.Response:
    body = {"model": "toy", "texts": ["abc"], "input_type": "search_document", **fields}
    return await server.http.post("/v2/embed", json=body)


async def test_forms_of_one_reply(server: Running) -> None:
    response = await embed(server, texts=["abc", "de"], embedding_types=["float", "base64"])
    body = response.json()
    expected = [numbers_of("P: abc"), numbers_of("P: de")]
    assert body["embeddings"]["float"] == expected
    packed = body["embeddings"]["base64"]
    assert [array("f", base64.b64decode(each)).tolist() for each in packed] == expected
    assert body["texts"] == ["abc", "de"]
    assert body["response_type"] == "embeddings_by_type"
    assert body["meta"]["billed_units"] == {"input_tokens": len("P: abcP: de")}


@pytest.mark.parametrize(
    ("input_type", "prompt"),
    [("search_query", "Q: "), ("search_document", "P: "), (None, "Q: ")],
)
async def test_prompts_of_the_checkpoint(
    server: Running, input_type: str | None, prompt: str
) -> None:
    body = (await embed(server, input_type=input_type)).json()
    assert body["embeddings"]["float"] == [numbers_of(f"{prompt}abc")]


async def test_checkpoints_without_a_prompt_for_it(server: Running, start: StartServer) -> None:
    response = await embed(server, input_type="clustering")
    assert response.status_code == 400
    assert "passage, query" in response.json()["message"]
    plain = await start(task="embed", pooling=Pooling(kind="mean", is_normalised=True))
    for kind in ("clustering", "search_query", "search_document"):
        body = (await embed(plain, input_type=kind)).json()
        assert body["embeddings"]["float"] == [numbers_of("abc")]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, "P: " + "a" * 99_997),
        ({"max_tokens": 5}, "P: aa"),
        ({"truncate": "START", "max_tokens": 4}, "abcd"),
        ({"truncate": "NONE"}, None),
    ],
)
async def test_long_texts_are_cut_or_refused(
    server: Running, fields: dict[str, Any], kept: str | None
) -> None:
    response = await embed(server, texts=["a" * 99_997 + "abcd"], **fields)
    if kept is None:
        assert response.status_code == 400
        assert "context length" in response.json()["message"]
    else:
        assert server.engine.pooled[-1].prompts == [ids_of(kept)]


async def test_what_the_engine_is_asked(server: Running) -> None:
    await embed(server, output_dimension=3, priority=2)
    (request,) = server.engine.pooled
    assert (request.dimensions, request.priority) == (3, 2)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"texts": []}, "'texts'"),
        ({"texts": "abc"}, "'texts'"),
        ({"images": ["data:"]}, "'images'"),
        ({"inputs": [{"content": []}]}, "'inputs'"),
        ({"input_type": "image"}, "'input_type'"),
        ({"embedding_types": ["int8"]}, "int8"),
        ({"embedding_types": ["binary"]}, "multiple of 8"),
        ({"truncate": "NONE", "max_tokens": 3}, "'max_tokens'"),
        ({"max_tokens": 0}, "'max_tokens'"),
        ({"output_dimension": 5}, "dimension"),
        ({"model": "none"}, "none"),
    ],
)
async def test_errors_have_cohere_s_shape(
    server: Running, fields: dict[str, Any], word: str
) -> None:
    response = await embed(server, **fields)
    assert response.status_code in (400, 404)
    body = response.json()
    assert set(body) == {"id", "message"}
    assert word in body["message"]


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"documents": []}, 400, "'documents'"),
        ({"top_n": -1}, 400, "'top_n'"),
        ({"query": 3}, 400, "'query'"),
        ({"model": "none"}, 404, "none"),
    ],
)
async def test_errors_of_the_second_rerank(
    server: Running, fields: dict[str, Any], status: int, word: str
) -> None:
    body = {"model": "toy", "query": "a", "documents": ["b"], **fields}
    response = await server.http.post("/v2/rerank", json=body)
    assert response.status_code == status
    assert set(response.json()) == {"id", "message"}
    assert word in response.json()["message"]
    older = await server.http.post("/v1/rerank", json=body)
    assert word in older.json()["error"]["message"]


def test_bits_are_those_of_numpy() -> None:
    rng = random.Random(5)
    rows = [[rng.choice([-1.5, -0.0, 0.0, 1e-30, 2.0]) for _ in range(64)] for _ in range(9)]
    vectors = [memoryview(array("f", row)) for row in rows]
    found = write_embeddings(vectors, ["ubinary", "binary"])
    expected = np.packbits(np.array(rows, "f") > 0, axis=-1)
    assert found["ubinary"] == expected.tolist()
    assert found["binary"] == (expected.astype(int) - 128).tolist()
