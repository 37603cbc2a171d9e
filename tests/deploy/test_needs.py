"""What a server takes of its node."""

from __future__ import annotations

import pytest

from llmplug.config import Config, parse
from llmplug.deploy.needs import count_gpus, count_requests


def config_of(*models: str, deploy: str = "{}") -> Config:
    lines = "".join(f"  - {{name: m{i}, source: /m, {model}}}\n" for i, model in enumerate(models))
    return parse(f"server: {{max_waiting_requests: 100}}\ndeploy: {deploy}\nmodels:\n{lines}")


@pytest.mark.parametrize(
    ("models", "has_gpus", "wanted"),
    [
        (["device: auto"], False, 0),
        (["device: auto"], True, 1),
        (["device: cpu"], True, 0),
        (["device: cuda"], False, 1),  # nodes with GPUs may be yet to come
        (["replicas: 2, parallel: {tensor: 4}", "device: cpu"], True, 8),
        (["parallel: {tensor: 2}", "device: cuda"], True, 3),
    ],
)
def test_gpus_are_those_of_all_ranks(models: list[str], has_gpus: bool, wanted: int) -> None:
    assert count_gpus(config_of(*models), has_gpus=has_gpus) == wanted
    assert count_gpus(config_of(*models, deploy="{num_gpus: 5}"), has_gpus=has_gpus) == 5


def test_requests_are_those_that_run_and_those_that_may_wait() -> None:
    config = config_of(
        "scheduler: {max_sequences: 8}, replicas: 2", "scheduler: {max_sequences: 4}"
    )
    assert count_requests(config) == 8 * 2 + 4 + 100
