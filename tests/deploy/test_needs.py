"""What a server takes of its nodes."""

from __future__ import annotations

import pytest

from llmplug.config import Config, parse
from llmplug.deploy.needs import count_requests, list_bundles
from llmplug.errors import ConfigError


def config_of(*models: str, deploy: str = "{}") -> Config:
    lines = "".join(f"  - {{name: m{i}, source: /m, {model}}}\n" for i, model in enumerate(models))
    return parse(f"server: {{max_waiting_requests: 100}}\ndeploy: {deploy}\nmodels:\n{lines}")


def count_gpus(config: Config, *, has_gpus: bool) -> list[int]:
    """Count the GPUs of each node."""
    return [each.num_gpus for each in list_bundles(config, has_gpus=has_gpus)]


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
    assert count_gpus(config_of(*models), has_gpus=has_gpus) == [wanted]
    assert count_gpus(config_of(*models, deploy="{num_gpus: 5}"), has_gpus=has_gpus) == [5]


@pytest.mark.parametrize(
    ("models", "wanted"),
    [
        (["parallel: {tensor: 8, nodes: 2}"], [4, 4]),
        (["device: cuda", "parallel: {tensor: 8, nodes: 2}"], [1 + 4, 4]),
        (["parallel: {tensor: 2, nodes: 2}", "parallel: {tensor: 8, nodes: 4}"], [3, 3, 2, 2]),
        (["parallel: {tensor: 2, nodes: 2}, device: cpu"], [0, 0]),
    ],
)
def test_models_spread_over_the_first_nodes(models: list[str], wanted: list[int]) -> None:
    config = config_of(*models, deploy="{num_cpus: 3}")
    assert count_gpus(config, has_gpus=True) == wanted
    assert {each.num_cpus for each in list_bundles(config, has_gpus=True)} == {3}


def test_too_few_gpus_of_a_node_are_refused() -> None:
    spread = "parallel: {tensor: 8, nodes: 2}"
    for device, num_gpus in (("auto", 3), ("cuda", 0)):
        config = config_of(f"{spread}, device: {device}", deploy=f"{{num_gpus: {num_gpus}}}")
        with pytest.raises(ConfigError, match=rf"deploy\.num_gpus: {num_gpus} .* models\.0"):
            list_bundles(config, has_gpus=True)
    for device, num_gpus in (("auto", 0), ("cpu", 0), ("cuda", 4)):
        config = config_of(f"{spread}, device: {device}", deploy=f"{{num_gpus: {num_gpus}}}")
        assert count_gpus(config, has_gpus=True) == [num_gpus] * 2


def test_requests_are_those_that_run_and_those_that_may_wait() -> None:
    config = config_of(
        "scheduler: {max_sequences: 8}, replicas: 2", "scheduler: {max_sequences: 4}"
    )
    assert count_requests(config) == 8 * 2 + 4 + 100
