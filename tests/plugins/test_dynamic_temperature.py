"""Dynamic temperature against its formula; with the temperature that comes after it."""

from __future__ import annotations

import math

import pytest
import torch

import llmplug_standard
from llmplug.testing import check_sampler
from llmplug.testing.sampler_rows import (
    CPU,
    INF,
    OPS,
    apply_sampler,
    make_logits,
    make_row,
)
from llmplug_dynamic_temperature import llmplug_samplers

(SPEC,) = llmplug_samplers()
TEMPERATURE = next(s for s in llmplug_standard.llmplug_samplers() if s.name == "temperature")


def expected_probs(logits: list[float], middle: float, width: float, power: float) -> list[float]:
    allowed = [x for x in logits if x > -INF]
    total = sum(math.exp(x) for x in allowed)
    entropy = -sum(math.exp(x) / total * math.log(math.exp(x) / total) for x in allowed)
    low, high = max(0.0, middle - width), middle + width
    heat = low + (high - low) * (entropy / math.log(len(allowed))) ** power
    weights = [math.exp((x - max(allowed)) / heat) for x in logits]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("middle", [0.3, 1.0, 1.7])
@pytest.mark.parametrize(("width", "power"), [(0.2, 1.0), (0.9, 1.0), (2.0, 0.5), (0.5, 3.0)])
def test_both_samplers_together_are_the_formula(middle, width, power) -> None:
    logits = make_logits(4, 1.0, 50)
    logits[1] *= 5
    logits[2] *= 0.1
    logits[3, ::2] = -INF
    rows = [make_row(SPEC, temperature=middle, dynatemp_range=width, dynatemp_exponent=power)] * 4
    edited = apply_sampler(SPEC, logits, rows)
    if middle != 1:
        TEMPERATURE.make(50, CPU, OPS).apply(edited, rows)
    for row in range(4):
        expected = torch.tensor(expected_probs(logits[row].tolist(), middle, width, power))
        torch.testing.assert_close(edited[row].softmax(-1), expected, rtol=1e-4, atol=1e-6)


def test_a_single_token_stays_and_sure_rows_become_surer() -> None:
    lone = torch.tensor([[3.0, -INF, -INF]])
    row = make_row(SPEC, dynatemp_range=1.0)
    assert torch.equal(apply_sampler(SPEC, lone, [row]).softmax(-1), lone.softmax(-1))
    sure = torch.tensor([[9.0, 1.0, 0.0]])
    edited = apply_sampler(SPEC, sure, [row])
    assert edited.isfinite().all()
    assert edited.softmax(-1)[0, 0] > sure.softmax(-1)[0, 0]


def test_what_holds_for_every_sampler() -> None:
    check_sampler(SPEC, [{"dynatemp_range": 0.2 * (i + 1)} for i in range(5)])


def test_when_it_is_active() -> None:
    fields = ({}, {"dynatemp_range": 0.5}, {"dynatemp_range": 0.5, "temperature": 0.0})
    assert [SPEC.is_active(SPEC.params(**each)) for each in fields] == [False, True, False]
