"""Typical-p against transformers' processor and against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.generation.logits_process import TypicalLogitsWarper

from llmplug.testing import check_sampler
from llmplug.testing.sampler_rows import (
    INF,
    apply_sampler,
    kept_ids,
    make_logits,
    make_row,
)
from llmplug_typical_p import llmplug_samplers

(SPEC,) = llmplug_samplers()


@pytest.mark.parametrize("typical_p", [1e-6, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("scale", [0.05, 1.0, 6.0])
def test_it_agrees_with_transformers(typical_p, scale) -> None:
    logits = make_logits(3, scale)
    found = apply_sampler(SPEC, logits, [make_row(SPEC, typical_p=typical_p)] * 3)
    for row in range(3):
        expected = TypicalLogitsWarper(typical_p)(None, logits[row : row + 1].double())[0]
        assert torch.equal(found[row] > -INF, expected > -INF)


def expected_ids(logits: list[float], share: float) -> list[int]:
    total = sum(math.exp(x) for x in logits)
    probs = [math.exp(x) / total for x in logits]
    entropy = -sum(p * math.log(p) for p in probs if p > 0)
    order = sorted((abs(-math.log(p) - entropy), i) for i, p in enumerate(probs) if p > 0)
    kept, held = [], 0.0
    for _, i in order:
        if kept and held >= share:
            break
        kept.append(i)
        held += probs[i]
    return sorted(kept)


def test_it_is_its_definition_where_some_are_forbidden() -> None:
    logits = make_logits(4, 2.0, 60)
    logits[:, ::2] = -INF
    shares = [0.2, 0.5, 0.8, 0.95]
    found = apply_sampler(SPEC, logits, [make_row(SPEC, typical_p=share) for share in shares])
    for row, share in enumerate(shares):
        assert kept_ids(found[row]) == expected_ids(logits[row].tolist(), share)


def test_the_likeliest_may_go_and_one_always_stays() -> None:
    logits = torch.tensor([[math.log(0.4), *[math.log(0.6 / 40)] * 40]])
    assert 0 not in kept_ids(apply_sampler(SPEC, logits, [make_row(SPEC, typical_p=0.5)])[0])
    lone = torch.tensor([[1.0, -INF, -INF]])
    assert torch.equal(apply_sampler(SPEC, lone, [make_row(SPEC, typical_p=1e-9)]), lone)


def test_what_holds_for_every_sampler() -> None:
    check_sampler(SPEC, [{"typical_p": 0.15 * (i + 1)} for i in range(5)])


def test_when_it_is_active() -> None:
    fields = ({}, {"typical_p": 0.5}, {"typical_p": 0.5, "temperature": 0.0})
    assert [SPEC.is_active(SPEC.params(**each)) for each in fields] == [False, True, False]
