"""Log-probabilities: transformers', whatever the samplers do to the logits meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine.fake_model import drain, make_request, output_of
from engine.tiny_engine import TinyModel

from llmplug.engine.logprobs import IMPOSSIBLE, compute_logprobs

PROMPT = [7, 40, 99, 12, 200, 3]
# Each alone and all together; none may show in what is reported.
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.3},
    {"temperature": 1.0, "top_k": 3},
    {"temperature": 1.0, "top_p": 0.4},
    {"temperature": 1.0, "min_p": 0.3},
    {"temperature": 0.0, "repetition_penalty": 1.7},
    {"temperature": 0.0, "presence_penalty": 2.0, "frequency_penalty": 1.0},
    {"temperature": 0.0, "logit_bias": {5: 100.0}},
    {"temperature": 0.0, "min_tokens": 8, "ignore_eos": False},
    {"temperature": 1.0, "allowed_token_ids": (1, 2, 3)},
    {"temperature": 0.0, "bad_words": ((7,), (40,))},
    {"temperature": 1.0, "extra": {"xtc_probability": 1.0, "xtc_threshold": 0.01}},
    {"temperature": 1.0, "extra": {"typical_p": 0.3}},
    {"temperature": 1.0, "extra": {"top_n_sigma": 0.5}},
    {"temperature": 1.0, "extra": {"dynatemp_range": 0.9}},
    {"temperature": 1.0, "extra": {"mirostat": 1}},
    {"temperature": 1.0, "extra": {"mirostat": 2, "mirostat_tau": 2.0}},
    {"samplers": ["min_p", {"name": "temperature", "temperature": 3.0}], "min_p": 0.2},
    {
        "temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2,
        "presence_penalty": 0.5, "frequency_penalty": 0.3, "logit_bias": {9: 3.0},
        "extra": {"xtc_probability": 0.5, "typical_p": 0.95, "top_n_sigma": 2.0},
    },
]  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> TinyModel:
    return TinyModel(tmp_path_factory.mktemp("tiny"))


def assert_rated(found, logprobs_V: torch.Tensor, token_id: int, num_top: int) -> None:
    """One position: the chosen token's number and rank, and the true first ones, best first."""
    expected = logprobs_V.tolist()
    assert found.token_id == token_id
    assert found.logprob == pytest.approx(expected[token_id], abs=1e-3)
    # Tokens within rounding of the chosen one may be on either side of it.
    above = sum(value > expected[token_id] + 1e-4 for value in expected)
    assert above < found.rank <= sum(value > expected[token_id] - 1e-4 for value in expected)
    assert len(found.top) == num_top
    best = sorted(expected, reverse=True)[:num_top]
    assert [value for _, value in found.top] == pytest.approx(best, abs=1e-3)
    assert [expected[i] for i, _ in found.top] == pytest.approx(best, abs=1e-3)
    assert len({i for i, _ in found.top}) == num_top


@pytest.mark.parametrize("options", OPTIONS, ids=lambda x: ",".join(map(str, x))[:40])
def test_no_sampler_shows_in_log_probabilities(tiny, options) -> None:
    engine = tiny.make_engine()
    fields = {"max_tokens": 8, "seed": 3, "ignore_eos": True, "logprobs": 5, "prompt_logprobs": 3}
    engine.add(make_request("asked", PROMPT, **{**fields, **options}))
    engine.add(make_request("beside", PROMPT[::-1], max_tokens=8))  # who asks for none
    found = drain(engine)
    deltas = found["asked", 0]
    output = output_of(deltas)
    rated = [each for delta in deltas for each in delta.logprobs]
    logprobs_TV = tiny.reference_logprobs(PROMPT + output)
    assert len(rated) == len(output) == 8
    for i, (token_id, each) in enumerate(zip(output, rated, strict=True)):
        assert_rated(each, logprobs_TV[len(PROMPT) + i - 1], token_id, 5)
    prompt = deltas[0].prompt_logprobs
    assert prompt[0] is None
    for i, token_id in enumerate(PROMPT[1:]):
        assert_rated(prompt[i + 1], logprobs_TV[i], token_id, 3)
    assert all(delta.logprobs is None for delta in found["beside", 0])


@pytest.mark.parametrize("changes", [{"prefill_chunk": 2}, {"num_pages": 12}])
def test_chunks_and_preemption_change_nothing(tiny, changes) -> None:
    engine = tiny.make_engine(**changes)
    for i in range(3):
        engine.add(make_request(str(i), [i, *PROMPT], max_tokens=8, logprobs=4, prompt_logprobs=2))
    found = drain(engine)
    for i in range(3):
        deltas = found[str(i), 0]
        ids = [i, *PROMPT, *output_of(deltas)]
        logprobs_TV = tiny.reference_logprobs(ids)
        rated = [*deltas[0].prompt_logprobs[1:], *(e for d in deltas for e in d.logprobs)]
        for place, each in enumerate(rated):
            num_top = 2 if place < len(PROMPT) else 4
            assert_rated(each, logprobs_TV[place], ids[place + 1], num_top)


def test_top_tokens_are_the_true_ones_in_their_order_of_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(40, 300, generator=generator) * 2).round()  # many are equal
    logits[7, 3:] = -torch.inf
    chosen = torch.randint(0, 3, (40,), generator=generator).tolist()
    counts = [row % 21 for row in range(40)]
    for row, found in enumerate(compute_logprobs(logits, chosen, counts)):
        values = logits[row].double().log_softmax(-1).tolist()
        order = sorted(range(300), key=lambda i, values=values: (-values[i], i))[: counts[row]]
        assert [i for i, _ in found.top] == order
        expected = [max(values[i], IMPOSSIBLE) for i in order]
        assert [value for _, value in found.top] == pytest.approx(expected, abs=1e-5)
        assert found.rank == 1 + sum(value > values[chosen[row]] for value in values)
