"""Mirostat: its cut and its update by the paper's formulas, chance, and where its state goes."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from engine.fake_model import drain, make_engine, make_request, output_of

from llmplug import SamplerRow
from llmplug.testing import check_sampler
from llmplug.testing.chance import is_plausible
from llmplug.testing.sampler_rows import (
    CPU,
    INF,
    OPS,
    make_logits,
    make_row,
)
from llmplug_mirostat import llmplug_samplers

(SPEC,) = llmplug_samplers()
SIZE = 200


def choose(logits, rows):
    return SPEC.make(logits.shape[1], CPU, OPS).choose(logits.clone(), rows)


def kept_by_version_2(probs: list[float], mu: float) -> set[int]:
    kept = {i for i, p in enumerate(probs) if p > 0 and -math.log2(p) <= mu}
    return kept or {max(range(len(probs)), key=probs.__getitem__)}


def kept_by_version_1(probs: list[float], mu: float) -> set[int]:
    order = sorted(range(len(probs)), key=lambda i: -probs[i])
    ranked = [probs[i] for i in order[:100] if probs[i] > 0]
    above = sum(
        math.log((i + 2) / (i + 1)) * math.log(ranked[i] / ranked[i + 1])
        for i in range(len(ranked) - 1)
    )
    below = sum(math.log((i + 2) / (i + 1)) ** 2 for i in range(len(ranked) - 1))
    s = above / below
    k = ((s - 1) * 2**mu / (1 - len(probs) ** (1 - s))) ** (1 / s)
    return set(order[: max(1, min(len(probs), int(k)))])


@pytest.mark.parametrize(("version", "kept_by"), [(1, kept_by_version_1), (2, kept_by_version_2)])
@pytest.mark.parametrize("mu", [0.05, 1.0, 3.0, 5.0, 20.0])
def test_tokens_are_drawn_from_what_the_cut_leaves(version, kept_by, mu) -> None:
    draws = 3000
    logits = make_logits(1, 1.5, SIZE)
    probs = logits.softmax(-1)[0].tolist()
    kept = kept_by(probs, mu)
    rows = [make_row(SPEC, seed=4, position=i, state=mu, mirostat=version) for i in range(draws)]
    counts = Counter(choose(logits.expand(draws, SIZE), rows).tolist())
    share = sum(probs[i] for i in kept)
    assert set(counts) <= kept
    assert is_plausible(counts, [p / share if i in kept else 0 for i, p in enumerate(probs)])


@pytest.mark.parametrize(("version", "kept_by"), [(1, kept_by_version_1), (2, kept_by_version_2)])
def test_what_holds_for_every_sampler(version, kept_by) -> None:
    def formula(logits: torch.Tensor, row: SamplerRow) -> torch.Tensor:
        probs = logits.softmax(-1).tolist()
        is_flat = len(set(probs)) == 1  # it has no exponent
        kept = range(len(probs)) if is_flat else kept_by(probs, 2 * row.params.mirostat_tau)
        cut = torch.tensor([p if i in kept else 0.0 for i, p in enumerate(probs)])
        return cut / cut.sum()

    params = [{"mirostat": version, "mirostat_tau": tau} for tau in (1.0, 2.0)]
    check_sampler(SPEC, params, formula=formula)


@pytest.mark.parametrize("version", [1, 2])
def test_mu_follows_the_surprise(version) -> None:
    logits = make_logits(3, 2.0, SIZE)
    params = {"mirostat": version, "mirostat_tau": 3.0, "mirostat_eta": 0.2}
    rows = [make_row(SPEC, seed=i, state=mu, **params) for i, mu in enumerate((None, 2.5, 9.0))]
    ids = choose(logits, rows).tolist()
    for row, (token_id, mu) in enumerate(zip(ids, (6.0, 2.5, 9.0), strict=True)):
        surprise = -math.log2(logits[row].softmax(-1)[token_id].item())
        assert rows[row].next_state == pytest.approx(mu - 0.2 * (surprise - 3.0), abs=1e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_the_surprise_of_a_text_comes_to_its_target(version) -> None:
    logits, state, seen = make_logits(1, 4.0, 2000), None, []
    for position in range(1200):
        row = make_row(
            SPEC, position=position, state=state, mirostat=version, mirostat_tau=4.0,
            mirostat_eta=0.1,
        )  # fmt: skip
        token_id = int(choose(logits, [row]))
        state = row.next_state
        seen.append(-math.log2(logits.softmax(-1)[0, token_id].item()))
    assert sum(seen[200:]) / 1000 == pytest.approx(4.0, abs=0.15)


def test_a_row_chooses_the_same_in_any_batch() -> None:
    logits = make_logits(6, 1.5, SIZE)
    rows = [
        make_row(SPEC, seed=i * 99, position=i, state=2.0 + i, mirostat=1 + i % 2) for i in range(6)
    ]
    together = choose(logits, rows).tolist()
    states = [row.next_state for row in rows]
    assert [int(choose(logits[i : i + 1], [rows[i]])) for i in range(6)] == together
    assert [row.next_state for row in rows] == pytest.approx(states, abs=1e-6)


def test_odd_rows_get_a_token_that_shows_it() -> None:
    logits = make_logits(4, 1.0, 150)
    logits[0, 3] = math.nan
    logits[1] = -INF
    logits[2, 1:] = -INF
    logits[3] = 0.0  # flat: no exponent
    rows = [make_row(SPEC, mirostat=1 + i % 2) for i in range(4)]
    ids = choose(logits, rows).tolist()
    assert not math.isfinite(logits[0, ids[0]])
    assert logits[1, ids[1]] == -INF
    assert ids[2] == 0


def generate(requests, **changes) -> list[list[int]]:
    engine = make_engine(samplers=[SPEC], **changes)
    for request in requests:
        engine.add(request)
    found = drain(engine)
    return [output_of(found[request.request_id, 0]) for request in requests]


def test_the_state_goes_with_its_sequence() -> None:
    """Alone, in a batch, and preempted again and again for want of pages: the same tokens."""

    def make(i: int):
        extra = {"mirostat": 1 + i % 2, "mirostat_tau": 2.0 + i, "mirostat_eta": 0.5}
        return make_request(str(i), [i, 5, 9], temperature=1.0, max_tokens=24, seed=i, extra=extra)

    requests = [make(i) for i in range(5)]
    alone = [generate([request])[0] for request in requests]
    assert len({tuple(output) for output in alone}) == 5
    assert generate(requests) == alone
    assert generate(requests, num_pages=14) == alone


def test_when_it_is_active() -> None:
    fields = ({}, {"mirostat": 1}, {"mirostat": 2}, {"mirostat": 2, "temperature": 0.0})
    assert [SPEC.is_active(SPEC.params(**each)) for each in fields] == [False, True, True, False]
