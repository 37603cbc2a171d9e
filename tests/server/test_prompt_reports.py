"""What is told of prompts and tokens, on a tiny model: transformers' numbers, and an engine's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine.tiny_engine import TinyModel

from .local_engine import serving

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> TinyModel:
    return TinyModel(folder)


@pytest.fixture
async def http(tiny: TinyModel, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(tiny, folder, []) as client:
        yield client


async def complete(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 5, "ignore_eos": True, **fields}
    response = await http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


async def test_prompt_logprobs_are_those_of_transformers(
    http: httpx.AsyncClient, tiny: TinyModel
) -> None:
    """Asked for twice: a prompt whose prefix is cached is told of all the same."""
    for n in (1, 2):
        body = await complete(http, prompt_logprobs=3, return_token_ids=True, n=n)
        for choice in body["choices"]:
            ids = choice["prompt_token_ids"]
            expected_TV = tiny.reference_logprobs(ids)
            first, *others = choice["prompt_logprobs"]
            assert first is None
            assert len(others) == len(ids) - 1
            for place, entries in enumerate(others):
                row_V = expected_TV[place]
                assert str(ids[place + 1]) in entries
                assert {str(i) for i in row_V.topk(3).indices.tolist()} <= entries.keys()
                for token_id, entry in entries.items():
                    expected = row_V[int(token_id)]
                    assert entry["logprob"] == pytest.approx(expected.item(), abs=1e-3)
                    assert entry["rank"] == 1 + int((row_V > expected).sum())


async def test_token_ids_are_the_likeliest(http: httpx.AsyncClient, tiny: TinyModel) -> None:
    body = await complete(http, temperature=0, return_token_ids=True)
    (choice,) = body["choices"]
    ids = list(choice["prompt_token_ids"])
    for token_id in choice["token_ids"]:
        assert token_id == int(tiny.reference_logprobs(ids)[-1].argmax())
        ids.append(token_id)
    assert len(choice["token_ids"]) == body["usage"]["completion_tokens"] == 5


async def test_a_cut_prompt_is_what_the_model_sees(http: httpx.AsyncClient) -> None:
    whole = (await complete(http, return_token_ids=True))["choices"][0]["prompt_token_ids"]
    body = await complete(http, temperature=0, truncate_prompt_tokens=6, return_token_ids=True)
    (choice,) = body["choices"]
    assert choice["prompt_token_ids"] == whole[-6:]
    again = await complete(http, temperature=0, prompt=whole[-6:])
    assert again["choices"][0]["text"] == choice["text"]


async def test_a_receipt_of_a_real_engine(http: httpx.AsyncClient) -> None:
    body = await complete(http, timings=True, max_tokens=20)
    timings = body["timings"]
    assert 0 < timings["queue_ms"] < timings["total_ms"]
    assert 0 < timings["prefill_ms"] < timings["total_ms"]
    assert 0 < timings["decode_ms"] < timings["total_ms"]
    assert timings["tokens_per_second"] == pytest.approx(19 / timings["decode_ms"] * 1000, rel=0.01)
