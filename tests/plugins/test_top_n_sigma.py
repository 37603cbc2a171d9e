"""Top-n-sigma against its definition, with Python's own deviation."""

from __future__ import annotations

import statistics

import pytest
import torch

from llmplug.testing import check_sampler
from llmplug.testing.sampler_rows import (
    INF,
    apply_sampler,
    kept_ids,
    make_logits,
    make_row,
)
from llmplug_top_n_sigma import llmplug_samplers

(SPEC,) = llmplug_samplers()


def expected_ids(logits: list[float], n: float) -> list[int]:
    sigma = statistics.pstdev(x for x in logits if x > -INF)
    return [i for i, x in enumerate(logits) if x > -INF and x >= max(logits) - n * sigma]


@pytest.mark.parametrize("n", [0.1, 1.0, 2.5, 10.0])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_who_is_within_n_deviations_stays(n, offset) -> None:
    logits = make_logits(4) + offset
    logits[1] *= 0.01
    logits[2, ::3] = -INF
    logits[3, 1:] = -INF
    found = apply_sampler(SPEC, logits, [make_row(SPEC, top_n_sigma=n)] * 4)
    for row in range(4):
        assert kept_ids(found[row]) == expected_ids(logits[row].tolist(), n)


def test_the_temperature_changes_nothing_about_who_stays() -> None:
    logits = make_logits(3)
    rows = [make_row(SPEC, top_n_sigma=1.3)] * 3
    cold, hot = apply_sampler(SPEC, logits * 4, rows), apply_sampler(SPEC, logits / 4, rows)
    assert torch.equal(cold > -INF, hot > -INF)


def test_equal_logits_all_stay() -> None:
    equal = torch.full((1, 9), 2.0)
    assert torch.equal(apply_sampler(SPEC, equal, [make_row(SPEC, top_n_sigma=0.5)]), equal)


def test_what_holds_for_every_sampler() -> None:
    check_sampler(SPEC, [{"top_n_sigma": 0.3 * (i + 1)} for i in range(5)])


def test_when_it_is_active() -> None:
    fields = ({}, {"top_n_sigma": 0.0}, {"top_n_sigma": 1}, {"top_n_sigma": 1, "temperature": 0})
    assert [SPEC.is_active(SPEC.params(**each)) for each in fields] == [False, False, True, False]
