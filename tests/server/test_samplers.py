"""Samplers and log-probabilities over HTTP, on a tiny model: transformers' numbers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine.tiny_engine import TinyModel

from llmplug.assemble import describe_samplers, load_registry
from llmplug.config import from_source

from .local_engine import serving

PROMPT = "Once upon a time"  # a token a byte


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> TinyModel:
    return TinyModel(folder)


@pytest.fixture
async def http(tiny: TinyModel, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    samplers = describe_samplers(load_registry(from_source(str(folder))))
    async with serving(tiny, folder, samplers) as client:
        yield client


async def complete(http: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 8, "ignore_eos": True, **fields}
    return await http.post("/v1/completions", json=body)


def ids_of(tiny: TinyModel, text: str) -> list[int]:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(tiny.folder / "tokenizer.json")).encode(text).ids


async def test_the_list_of_samplers(http) -> None:
    reply = (await http.get("/v1/samplers")).json()
    assert reply["object"] == "list"
    names = [each["name"] for each in reply["data"]]
    stages = [each["stage"] for each in reply["data"]]
    assert stages == sorted(stages, key=["bias", "scale", "filter", "choose"].index)
    assert {"top_p", "mirostat", "dry", "xtc", "dynatemp", "typical_p", "top_n_sigma"} <= {*names}
    assert "choose_tokens" not in names
    xtc = next(each for each in reply["data"] if each["name"] == "xtc")
    assert (xtc["stage"], xtc["order"]) == ("filter", 40)
    assert xtc["plugin"].endswith(":xtc")
    assert xtc["neutral"] == {"temperature": 1.0, "xtc_probability": 0.0, "xtc_threshold": 0.1}
    assert xtc["schema"]["properties"]["xtc_threshold"]["maximum"] == 1


async def test_a_request_lists_its_samplers(http) -> None:
    """A filter before a great heat and after it: not the same texts, and each again the same."""
    heat = {"name": "temperature", "temperature": 50.0}
    cut = {"name": "top_k", "top_k": 1}
    same = [await complete(http, seed=4, samplers=[cut, heat]) for _ in range(2)]
    greedy = (await complete(http, temperature=0)).json()["choices"][0]["text"]
    assert [each.json()["choices"][0]["text"] for each in same] == [greedy, greedy]
    free = await complete(http, seed=4, samplers=[heat])
    assert free.json()["choices"][0]["text"] != greedy
    chat = await http.post(
        "/v1/chat/completions",
        json={
            "model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5,
            "samplers": ["top_p", {"name": "mirostat", "mirostat": 2, "tau": 3}], "seed": 1,
        },
    )  # fmt: skip
    assert chat.status_code == 200, chat.text
    assert "X-Llmplug-Ignored" not in chat.headers


async def test_an_entry_s_own_sampler_checks_it(http) -> None:
    for samplers, param in (
        (["top_p", {"name": "xtc", "threshold": 2}], "samplers[1].threshold"),
        (["top_q"], "samplers[0].name"),
        ("top_p", "samplers"),
        ([{"name": "xtc", "probability": 0.1, "wild": 1}], "samplers[0].wild"),
    ):
        reply = await complete(http, samplers=samplers)
        assert reply.status_code == 400, reply.text
        assert reply.json()["error"]["param"] == param
    reply = await complete(http, samplers=["top_p"], top_k=4)
    assert reply.json()["error"]["param"] == "top_k"
    reply = await complete(http, xtc_threshold=7)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "xtc_threshold")


async def test_tokens_that_are_allowed_and_words_that_are_not(http, tiny) -> None:
    allowed = ids_of(tiny, "abc")
    reply = await complete(http, allowed_token_ids=allowed, temperature=2, seed=1)
    text = reply.json()["choices"][0]["text"]
    assert len(text) == 8
    assert set(text) <= set("abc")
    alone = await complete(http, allowed_token_ids=ids_of(tiny, "ab"), bad_words=["b"])
    assert alone.json()["choices"][0]["text"] == "a" * 8
    pair = await complete(
        http, allowed_token_ids=ids_of(tiny, "xy "), bad_words=["xy", "x x"], seed=3,
        temperature=5, max_tokens=60,
    )  # fmt: skip
    text = pair.json()["choices"][0]["text"]
    assert "x" in text
    assert "xy" not in text
    assert "x x" not in text
    for fields in ({"allowed_token_ids": []}, {"bad_words": [""]}, {"allowed_token_ids": [9999]}):
        reply = await complete(http, **fields)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, next(iter(fields)))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0.5, "top_k": 4, "seed": 1},
        {"temperature": 0, "logit_bias": {"65": 100}},
        {"seed": 2, "xtc_probability": 1.0, "xtc_threshold": 0.01, "typical_p": 0.9},
        {"seed": 2, "samplers": [{"name": "mirostat", "mirostat": 1}]},
    ],
    ids=str,
)
async def test_log_probabilities_are_transformers(http, tiny, options) -> None:
    reply = (await complete(http, logprobs=4, echo=True, **options)).json()
    rated = reply["choices"][0]["logprobs"]
    assert len(rated["token_logprobs"]) == len(PROMPT) + 8
    ids = ids_of(tiny, PROMPT)
    assert rated["token_logprobs"][0] is None
    # The text may hold bytes that are no characters: the ids are found by their numbers.
    logprobs_TV = tiny.reference_logprobs(ids)
    for i, found in enumerate(rated["token_logprobs"][1 : len(ids)]):
        assert found == pytest.approx(logprobs_TV[i, ids[i + 1]].item(), abs=1e-3)
        best = logprobs_TV[i].topk(4).values.tolist()
        top = sorted(rated["top_logprobs"][i + 1].values(), reverse=True)
        assert top[:4] == pytest.approx(best, abs=1e-3)
    first = sorted(rated["top_logprobs"][len(ids)].values(), reverse=True)
    assert first[:4] == pytest.approx(logprobs_TV[-1].topk(4).values.tolist(), abs=1e-3)


async def test_a_prompt_is_scored_without_generating(http, tiny) -> None:
    texts = [PROMPT, "Scoring a prompt is what benchmarks do."]
    body = {"model": "tiny", "prompt": texts, "max_tokens": 0, "echo": True, "logprobs": 1}
    reply = (await http.post("/v1/completions", json=body)).json()
    assert reply["usage"]["completion_tokens"] == 0
    for text, choice in zip(texts, reply["choices"], strict=True):
        ids = ids_of(tiny, text)
        assert choice["text"] == text
        logprobs_TV = tiny.reference_logprobs(ids)
        expected = [logprobs_TV[i, ids[i + 1]].item() for i in range(len(ids) - 1)]
        found = choice["logprobs"]["token_logprobs"]
        assert found[0] is None
        assert found[1:] == pytest.approx(expected, abs=1e-3)
        assert sum(found[1:]) == pytest.approx(sum(expected), abs=1e-2)


async def test_chats_have_the_true_top_tokens(http, tiny) -> None:
    body = {
        "model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6,
        "logprobs": True, "top_logprobs": 20, "temperature": 1.5, "seed": 1, "ignore_eos": True,
    }  # fmt: skip
    reply = (await http.post("/v1/chat/completions", json=body)).json()
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    content = reply["choices"][0]["logprobs"]["content"]
    best = tiny.reference_logprobs(ids_of(tiny, prompt))[-1].topk(20).values.tolist()
    top = [each["logprob"] for each in content[0]["top_logprobs"]]
    assert top == pytest.approx(best, abs=1e-3)
    for token in content:
        values = [each["logprob"] for each in token["top_logprobs"]]
        assert values == sorted(values, reverse=True)
        assert len({(e["token"], tuple(e["bytes"] or ())) for e in token["top_logprobs"]}) == 20


async def test_beams_over_http(http, tiny) -> None:
    import torch

    ids = torch.tensor([ids_of(tiny, PROMPT)])
    expected = tiny.reference.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, num_beams=4,
        num_return_sequences=2, length_penalty=0.5, pad_token_id=258,
    )[:, ids.shape[1] :].tolist()  # fmt: skip
    fields = {"use_beam_search": True, "length_penalty": 0.5, "return_token_ids": True}
    reply = await complete(http, n=2, best_of=4, ignore_eos=False, **fields)
    assert reply.status_code == 200, reply.text
    assert [choice["token_ids"] for choice in reply.json()["choices"]] == expected
    assert reply.json()["usage"]["completion_tokens"] == sum(map(len, expected))
    whole = [choice["text"] for choice in reply.json()["choices"]]
    streamed = ["", ""]
    async with http.stream(
        "POST",
        "/v1/completions",
        json={
            "model": "tiny",
            "prompt": PROMPT,
            "max_tokens": 8,
            "n": 2,
            "best_of": 4,
            "stream": True,
            **fields,
        },
    ) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    streamed[choice["index"]] += choice["text"]
    assert streamed == whole
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
    body = {**chat, "n": 3, "use_beam_search": True, "return_token_ids": True}
    reply = await http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    assert len({tuple(choice["token_ids"]) for choice in reply.json()["choices"]}) == 3
    for wrong in (
        {"temperature": 0.7}, {"logprobs": 2}, {"n": 5}, {"best_of": 65}, {"length_penalty": 101},
        {"early_stopping": "soon"}, {"top_k": 3},
    ):  # fmt: skip
        body = {"n": 1, "best_of": 4, "use_beam_search": True, **wrong}
        reply = await complete(http, **body)
        param = "best_of" if "n" in wrong else next(iter(wrong))
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    reply = await complete(http, length_penalty=2)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "length_penalty")


async def test_the_best_of_several_answers_are_shown(http) -> None:
    fields = {"seed": 5, "temperature": 1.5, "prompt": [PROMPT, "Another"]}
    every = (await complete(http, n=6, logprobs=0, **fields)).json()
    for logprobs in (None, 0):
        best = (await complete(http, n=2, best_of=6, logprobs=logprobs, **fields)).json()
        assert [choice["index"] for choice in best["choices"]] == [0, 1, 2, 3]
        counts = [reply["usage"]["completion_tokens"] for reply in (best, every)]
        assert counts[0] == counts[1]
        for place in range(2):
            group = every["choices"][6 * place : 6 * place + 6]
            group.sort(key=lambda choice: -sum(choice["logprobs"]["token_logprobs"]))
            shown = best["choices"][2 * place : 2 * place + 2]
            assert [c["text"] for c in shown] == [c["text"] for c in group[:2]]
            assert all((c["logprobs"] is None) == (logprobs is None) for c in shown)
    for wrong in ({"n": 3}, {"stream": True}, {"echo": True}, {"best_of": 1000}):
        reply = await complete(http, **{"best_of": 2, **wrong})
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] in {"best_of", "n"}
