"""How many servers are wanted for a load."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llmplug.deploy.scaling import CACHE_SHARE, ScaleByLoad


@pytest.mark.parametrize(
    ("requests", "shares", "wanted"),
    [
        (0, [], 1),
        (8, [0.1], 1),
        (9, [0.1], 2),
        (25, [0.1, 0.1], 4),
        (2, [0.9], 2),  # few requests, of many tokens
        (2, [0.8, 0.8], 2),
        (2, [0.9, 0.9], 3),
        (24, [1.0], 3),
    ],
)
def test_as_many_as_hold_requests_and_tokens(
    requests: float, shares: list[float], wanted: int
) -> None:
    policy = ScaleByLoad(target_requests=8.0, target_cache=0.8)
    metrics = {CACHE_SHARE: dict(enumerate(shares))}
    context = SimpleNamespace(total_num_requests=requests, aggregated_metrics=metrics)
    assert policy(context) == (wanted, {})


def test_servers_that_tell_nothing_are_counted_by_requests() -> None:
    context = SimpleNamespace(total_num_requests=17.0, aggregated_metrics=None)
    assert ScaleByLoad(target_requests=8.0, target_cache=0.8)(context) == (3, {})
