"""Cohere's client, against /v2/embed and /v2/rerank."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

cohere = pytest.importorskip("cohere")

pytestmark = pytest.mark.slow
TEXTS = ["Bread is baked in an oven.", "A kitten is a young cat.", "Snow is cold."]


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Any]:
    with cohere.ClientV2(api_key=server.key, base_url=server.root) as client:
        yield client


@pytest.fixture
async def async_client(server: Any) -> AsyncIterator[Any]:
    async with cohere.AsyncClientV2(api_key=server.key, base_url=server.root) as client:
        yield client


async def test_embed(client: Any, async_client: Any) -> None:
    asked: Any = {
        "model": "embeddings",
        "texts": TEXTS,
        "input_type": "search_document",
        "embedding_types": ["float", "ubinary"],
    }
    reply = client.embed(**asked)
    vectors = reply.embeddings.float_
    assert [len(each) for each in vectors] == [384] * 3
    bits = [[number > 0 for number in each] for each in vectors]
    packed = [
        [byte >> (7 - i) & 1 == 1 for byte in each for i in range(8)]
        for each in (reply.embeddings.ubinary)
    ]
    assert packed == bits
    same = await async_client.embed(**asked)
    assert same.embeddings.ubinary == reply.embeddings.ubinary


async def test_rerank(client: Any, async_client: Any) -> None:
    asked: Any = {"model": "embeddings", "query": "What is a kitten?", "documents": TEXTS}
    reply = client.rerank(**asked)
    assert reply.results[0].index == 1
    scores = [each.relevance_score for each in reply.results]
    assert scores == sorted(scores, reverse=True)
    top = await async_client.rerank(top_n=1, **asked)
    assert [each.index for each in top.results] == [1]


def test_errors(server: Any, client: Any) -> None:
    """Each says in Cohere's words what is wrong."""
    wrong = cohere.ClientV2(api_key="wrong", base_url=server.root)
    for ask, empty, fields in (
        (client.rerank, "documents", {"query": "a", "documents": []}),
        (client.embed, "texts", {"texts": [], "input_type": "search_query"}),
    ):
        with pytest.raises(cohere.errors.BadRequestError) as caught:
            ask(model="embeddings", **fields)
        assert f"'{empty}'" in caught.value.body["message"]
        with pytest.raises(cohere.errors.NotFoundError, match="nobody"):
            ask(model="nobody", **fields)
    with pytest.raises(cohere.errors.UnauthorizedError, match="message"):
        wrong.rerank(model="embeddings", query="a", documents=["b"])
