"""What one server of a config takes: of its node, and of requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmplug.config import Config


def count_requests(config: Config) -> int:
    """Count what a server takes, those that wait in it included; it refuses the rest itself."""
    running = sum(model.scheduler.max_sequences * model.replicas for model in config.models)
    return running + config.server.max_waiting_requests


def count_gpus(config: Config, *, has_gpus: bool) -> int:
    """Count the GPUs that a server takes, all of one node: ranks must be on one machine.

    Args:
        has_gpus: whether nodes of the cluster have any: a model whose device is `auto` then runs
            there.
    """
    if config.deploy.num_gpus != "auto":
        return config.deploy.num_gpus
    devices = {"cuda", "auto"} if has_gpus else {"cuda"}
    return sum(
        model.replicas * model.parallel.tensor for model in config.models if model.device in devices
    )
