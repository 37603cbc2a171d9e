"""Embeddings, reranking, scores and classes over HTTP; the engine's numbers tell the text."""

from __future__ import annotations

import base64
import math
from array import array
from typing import Any

import httpx
import openai
import pytest
from openai.types import CreateEmbeddingResponse

from llmplug.pooling import Pooling

from .conftest import Running, StartServer
from .fake_engine import ids_of
from .strict_openai import check_openai

POOLING = Pooling(
    kind="mean",
    is_normalised=True,
    prompts={"query": "Q: ", "document": "D: "},
    default_prompt="document",
)


def numbers_of(text: str) -> list[float]:
    ids = ids_of(text)
    return [len(ids), sum(ids), ids[0], ids[-1]]


@pytest.fixture
async def server(start: StartServer) -> Running:
    return await start(task="embed", pooling=Pooling(kind="mean", is_normalised=True))


async def embed(server: Running, **fields: Any) -> httpx.Response:
    return await server.http.post("/v1/embeddings", json={"model": "toy", "input": "abc", **fields})


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("abc", ["abc"]),
        (["abc", "de"], ["abc", "de"]),
        (ids_of("abc"), ["abc"]),
        ([ids_of("a"), ids_of("bc")], ["a", "bc"]),
    ],
)
async def test_every_form_of_input(server: Running, given: Any, texts: list[str]) -> None:
    body = (await embed(server, input=given)).json()
    check_openai(body, CreateEmbeddingResponse)
    assert [each["embedding"] for each in body["data"]] == [numbers_of(text) for text in texts]
    assert [each["index"] for each in body["data"]] == list(range(len(texts)))
    num_tokens = sum(map(len, texts))
    assert body["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}


async def test_a_conversation_is_rendered(server: Running) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    response = await server.http.post("/v1/embeddings", json={"model": "toy", "messages": messages})
    assert response.status_code == 200
    call = server.renderer.calls[-1]
    assert call["messages"] == messages
    assert call["add_generation_prompt"] is False


async def test_base64_is_what_the_client_asks_for(server: Running) -> None:
    body = (await embed(server, encoding_format="base64")).json()
    assert array("f", base64.b64decode(body["data"][0]["embedding"])).tolist() == numbers_of("abc")
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        reply = await client.embeddings.create(model="toy", input=["abc", "d"])  # base64, unasked
    assert [each.embedding for each in reply.data] == [numbers_of("abc"), numbers_of("d")]


async def test_what_the_engine_is_asked(server: Running) -> None:
    await embed(server, dimensions=3, normalize=False, priority=2)
    (request,) = server.engine.pooled
    assert (request.dimensions, request.is_normalised, request.priority) == (3, False, 2)
    assert request.task == "embed"


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, None),
        ({"truncate_prompt_tokens": 4}, "aaaa"),
        ({"truncate_prompt_tokens": 4, "truncation_side": "left"}, "abcd"),
        ({"truncate_prompt_tokens": -1}, "a" * 99_997 + "abc"),
    ],
)
async def test_long_texts_are_refused_or_cut(
    server: Running, fields: dict[str, Any], kept: str | None
) -> None:
    response = await embed(server, input="a" * 99_997 + "abcd", **fields)
    if kept is None:
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"
        assert response.json()["error"]["param"] == "input[0]"
    else:
        assert response.json()["data"][0]["embedding"] == numbers_of(kept)


async def test_prompts_of_the_checkpoint(start: StartServer) -> None:
    server = await start(task="embed", pooling=POOLING)
    for name, start_of_text in ((None, "D: "), ("query", "Q: ")):
        body = (await embed(server, **({"prompt_name": name} if name else {}))).json()
        assert body["data"][0]["embedding"] == numbers_of(f"{start_of_text}abc")
    response = await embed(server, prompt_name="title")
    assert response.json()["error"]["param"] == "prompt_name"
    assert "document, query" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input[0]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": [[257]]}, "input[0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"messages": [{"role": "user", "content": "x"}]}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 5}, "dimensions"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"embed_dtype": "float16"}, "embed_dtype"),
    ],
)
async def test_refusals_name_the_field(server: Running, fields: dict[str, Any], param: str) -> None:
    response = await embed(server, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_unknown_fields_are_listed(server: Running) -> None:
    response = await embed(server, colour="red")
    assert response.headers["X-Llmplug-Ignored"] == "colour"


@pytest.mark.parametrize(
    ("task", "path", "body"),
    [
        ("embed", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("embed", "/v1/completions", {"prompt": "x"}),
        ("embed", "/classify", {"input": "x"}),
        ("classify", "/v1/embeddings", {"input": "x"}),
        ("generate", "/v1/embeddings", {"input": "x"}),
        ("generate", "/rerank", {"query": "x", "documents": ["y"]}),
    ],
)
async def test_a_model_is_for_its_task(
    start: StartServer, task: Any, path: str, body: dict[str, Any]
) -> None:
    server = await start(task=task)
    response = await server.http.post(path, json={"model": "toy", **body})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "model"
    assert task in response.json()["error"]["message"]


# --- reranking, scores, classes -----------------------------------------------------------------
def cosine(first: str, second: str) -> float:
    a, b = numbers_of(first), numbers_of(second)
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
async def test_embedding_models_rerank_by_the_angle(server: Running, path: str) -> None:
    documents = ["zzzzzz", "abd", "a"]
    body = {"model": "toy", "query": "abc", "documents": documents, "top_n": 2}
    found = (await server.http.post(path, json=body)).json()
    order = sorted(range(3), key=lambda i: -cosine("abc", documents[i]))[:2]
    assert [each["index"] for each in found["results"]] == order
    for each in found["results"]:
        text = documents[each["index"]]
        assert each["document"] == {"text": text}
        assert each["relevance_score"] == pytest.approx(cosine("abc", text), abs=1e-6)
    (request,) = server.engine.pooled
    assert len(request.prompts) == 4  # each text once


async def test_rerankers_read_both_texts_at_once(start: StartServer) -> None:
    server = await start(task="classify")
    body = {"model": "toy", "query": "ab", "documents": ["c", {"text": "defg"}]}
    found = (await server.http.post("/rerank", json={**body, "return_documents": False})).json()
    # The engine's score is the logarithm of the length: 3 and 6 tokens.
    assert found["results"] == [
        {"index": 1, "relevance_score": pytest.approx(6 / 7)},
        {"index": 0, "relevance_score": pytest.approx(3 / 4)},
    ]
    assert found["usage"]["prompt_tokens"] == 9
    raw = (await server.http.post("/rerank", json={**body, "use_activation": False})).json()
    assert raw["results"][0]["relevance_score"] == pytest.approx(math.log(6))


@pytest.mark.parametrize(
    ("sides", "lengths"),
    [
        ({"text_1": "ab", "text_2": "c"}, [3]),
        ({"data_1": "ab", "data_2": ["c", "cd"]}, [3, 4]),
        ({"queries": ["a", "ab"], "documents": ["c", "cd"]}, [2, 4]),
        ({"queries": "a", "items": ["c"]}, [2]),
    ],
)
async def test_scores(start: StartServer, sides: dict[str, Any], lengths: list[int]) -> None:
    server = await start(task="classify")
    for path in ("/score", "/v1/score"):
        body = (await server.http.post(path, json={"model": "toy", **sides})).json()
        assert body["object"] == "list"
        assert [each["score"] for each in body["data"]] == [
            pytest.approx(length / (length + 1)) for length in lengths
        ]


@pytest.mark.parametrize(
    ("sides", "param"),
    [
        ({"text_1": "a"}, "text_1"),
        ({"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}, "text_1"),
        ({"text_1": "a", "text_2": []}, "text_2"),
        ({"text_1": "a", "text_2": [3]}, "text_2[0]"),
    ],
)
async def test_pairs_that_are_none(start: StartServer, sides: dict[str, Any], param: str) -> None:
    server = await start(task="classify")
    response = await server.http.post("/score", json={"model": "toy", **sides})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_classes(start: StartServer) -> None:
    server = await start(task="classify", labels=("no", "yes"))
    server.engine.num_labels = 2
    body = {"model": "toy", "input": ["ab", "abcd"]}
    found = (await server.http.post("/classify", json=body)).json()
    assert found["data"] == [
        {"index": i, "label": "no", "probs": [0.5, 0.5], "num_classes": 2} for i in range(2)
    ]
    score = await server.http.post("/score", json={"model": "toy", "text_1": "a", "text_2": "b"})
    assert score.status_code == 400
    assert "2 labels" in score.json()["error"]["message"]
