"""What one server of a config takes: of each of its nodes, and of requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmplug.errors import ConfigError

if TYPE_CHECKING:
    from llmplug.config import Config


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a server takes of one node; the server itself runs on the node of its first one."""

    num_cpus: float
    num_gpus: int


def count_requests(config: Config) -> int:
    """Count what a server takes, those that wait in it included; it refuses the rest itself."""
    running = sum(model.scheduler.max_sequences * model.replicas for model in config.models)
    return running + config.server.max_waiting_requests


def list_bundles(config: Config, *, has_gpus: bool) -> tuple[Bundle, ...]:
    """List what a server takes of its nodes: as many as the model of the most nodes has.

    A model of several nodes has an equal part of its ranks on each of the first so many; all
    others are whole on the first.

    Args:
        has_gpus: whether nodes of the cluster have any: a model whose device is `auto` then runs
            there.
    Raises:
        ConfigError: `deploy.num_gpus` has too few for the ranks of a model on each node.
    """
    num_nodes = max(model.parallel.nodes for model in config.models)
    _check_num_gpus(config)
    return tuple(
        Bundle(config.deploy.num_cpus, _count_gpus(config, node, has_gpus=has_gpus))
        for node in range(num_nodes)
    )


def list_spread_models(config: Config) -> tuple[int, ...]:
    """List the models of several nodes, by their place in the config."""
    return tuple(i for i, model in enumerate(config.models) if model.parallel.nodes > 1)


def _count_gpus(config: Config, node: int, *, has_gpus: bool) -> int:
    """Count the GPUs that a server takes of one of its nodes."""
    if config.deploy.num_gpus != "auto":
        return config.deploy.num_gpus
    devices = {"cuda", "auto"} if has_gpus else {"cuda"}
    return sum(
        model.replicas * model.parallel.ranks_per_node
        for model in config.models
        if model.device in devices and node < model.parallel.nodes
    )


def _check_num_gpus(config: Config) -> None:
    """Refuse fewer GPUs of each node than the ranks of a model of several nodes are there.

    None at all leaves models whose device is `auto` to the processors.
    """
    num_gpus = config.deploy.num_gpus
    for index in list_spread_models(config):
        model = config.models[index]
        num_ranks = model.parallel.ranks_per_node
        is_on_gpus = model.device == "cuda" or (model.device == "auto" and num_gpus != 0)
        if num_gpus != "auto" and is_on_gpus and num_gpus < num_ranks:
            raise ConfigError(
                f"deploy.num_gpus: {num_gpus} of each node are too few for models.{index}, which "
                f"has {num_ranks} ranks on each of {model.parallel.nodes}; say more, or auto"
            )
