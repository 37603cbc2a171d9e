"""XTC: which tokens go, how often, and that it is up to the seed alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from pydantic import ValidationError

from llmplug.testing import check_sampler
from llmplug.testing.chance import is_plausible
from llmplug.testing.sampler_rows import (
    INF,
    OPS,
    apply_sampler,
    kept_ids,
    make_logits,
    make_row,
)
from llmplug_xtc import llmplug_samplers

(SPEC,) = llmplug_samplers()


def expected_ids(logits: list[float], threshold: float) -> list[int]:
    probs = torch.tensor(logits).softmax(-1).tolist()
    over = [i for i, prob in enumerate(probs) if prob >= threshold]
    least = min(over, key=lambda i: (probs[i], i), default=None)
    return [i for i in range(len(probs)) if i not in over or i == least]


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.1, 0.2, 0.5])
def test_of_the_likely_only_the_least_likely_stays(threshold) -> None:
    logits = make_logits(6, 1.5, 30)
    logits[5, :3] = logits[5].max() + 1  # equal: the lowest id stays
    rows = [make_row(SPEC, xtc_probability=1.0, xtc_threshold=threshold)] * 6
    found = apply_sampler(SPEC, logits, rows)
    for row in range(6):
        assert kept_ids(found[row]) == expected_ids(logits[row].tolist(), threshold)


def test_a_single_choice_stays() -> None:
    logits = torch.tensor([[5.0, 0.0, -1.0, -INF]])
    found = apply_sampler(SPEC, logits, [make_row(SPEC, xtc_probability=1.0, xtc_threshold=0.3)])
    assert torch.equal(found, logits)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("vary", ["seed", "position"])
def test_it_happens_with_its_probability(probability, vary) -> None:
    count = 3000
    logits = torch.zeros(count, 4)
    rows = [
        make_row(SPEC, xtc_probability=probability, **{"seed": 5, "position": 7, vary: i})
        for i in range(count)
    ]
    found = apply_sampler(SPEC, logits, rows)
    counts = Counter(int(len(kept_ids(row)) == 1) for row in found)
    assert is_plausible(counts, [1 - probability, probability])


def test_the_coin_says_nothing_about_the_draw() -> None:
    """What is drawn after a coin of heads is drawn as often as after tails."""
    from llmplug_standard.categorical import Categorical

    count = 4000
    rows = [make_row(SPEC, seed=3, position=i, xtc_probability=0.5) for i in range(count)]
    is_heads = apply_sampler(SPEC, torch.zeros(count, 2), rows)[:, 1] == -INF
    drawn = Categorical(OPS).choose(torch.zeros(count, 2), rows) == 1
    agree = int((is_heads == drawn).sum())
    assert is_plausible(Counter({0: count - agree, 1: agree}), [0.5, 0.5])


def test_what_holds_for_every_sampler() -> None:
    check_sampler(SPEC, [{"xtc_probability": 0.1 * (i + 1)} for i in range(8)])


def test_when_it_is_active_and_what_it_refuses() -> None:
    active = [
        SPEC.is_active(SPEC.params(**fields))
        for fields in (
            {},
            {"xtc_probability": 0.5},
            {"xtc_probability": 0.5, "xtc_threshold": 0.6},
            {"xtc_probability": 0.5, "temperature": 0.0},
        )
    ]
    assert active == [False, True, False, False]
    for wrong in ({"xtc_probability": 1.1}, {"xtc_threshold": -0.1}, {"xtc_threshold": True}):
        with pytest.raises(ValidationError):
            SPEC.params(**wrong)
