"""POST /pooling, whatever the model is for."""

from __future__ import annotations

import base64
from array import array
from typing import Any

import pytest

from llmplug.pooling import Pooling

from .conftest import StartServer
from .fake_engine import ids_of
from .test_embeddings import numbers_of

POOLING = Pooling(kind="mean", is_normalised=True)


async def test_vectors_of_texts(start: StartServer) -> None:
    server = await start(task="embed", pooling=POOLING)
    body = {"model": "toy", "input": ["abc", "d"], "dimensions": 3, "normalize": False}
    found = (await server.http.post("/pooling", json=body)).json()
    assert found["data"] == [
        {"object": "pooling", "index": i, "data": numbers_of(text)}
        for i, text in enumerate(["abc", "d"])
    ]
    assert found["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    (request,) = server.engine.pooled
    assert (request.task, request.dimensions, request.is_normalised) == ("embed", 3, False)


async def test_a_vector_of_each_token(start: StartServer) -> None:
    server = await start(task="embed", pooling=POOLING)
    body = {"model": "toy", "input": ["abc", "d"], "task": "token_embed"}
    found = (await server.http.post("/pooling", json=body)).json()
    expected = [
        [[float(i), float(place)] for place, i in enumerate(ids_of(text))] for text in ("abc", "d")
    ]
    assert [each["data"] for each in found["data"]] == expected
    packed = (await server.http.post("/pooling", json={**body, "encoding_format": "base64"})).json()
    numbers = array("f", base64.b64decode(packed["data"][0]["data"])).tolist()
    assert numbers == [x for vector in expected[0] for x in vector]


async def test_probabilities_of_labels(start: StartServer) -> None:
    server = await start(task="classify")
    body: dict[str, Any] = {"model": "toy", "input": "abc"}
    found = (await server.http.post("/pooling", json=body)).json()
    # The engine's score is the logarithm of the length: 3.
    assert found["data"][0]["data"] == [pytest.approx(0.75)]
    raw = (await server.http.post("/pooling", json={**body, "use_activation": False})).json()
    assert raw["data"][0]["data"] == [pytest.approx(1.0986123)]
    assert {request.task for request in server.engine.pooled} == {"classify"}


@pytest.mark.parametrize(
    ("task", "fields", "param"),
    [
        ("embed", {}, "input"),
        ("embed", {"input": "a", "task": "classify"}, "task"),
        ("embed", {"input": "a", "task": "token_classify"}, "task"),
        ("embed", {"input": "a", "use_activation": True}, "use_activation"),
        ("classify", {"input": "a", "task": "embed"}, "task"),
        ("classify", {"input": "a", "dimensions": 2}, "dimensions"),
        ("classify", {"input": "a", "normalize": True}, "normalize"),
        ("generate", {"input": "a"}, "model"),
    ],
)
async def test_refusals_name_the_field(
    start: StartServer, task: Any, fields: dict[str, Any], param: str
) -> None:
    server = await start(task=task)
    response = await server.http.post("/pooling", json={"model": "toy", **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
