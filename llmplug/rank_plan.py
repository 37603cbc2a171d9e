"""How a model is planned for several ranks: whether they can share it, and what each holds."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from llmplug.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmplug.config import ModelConfig
    from llmplug.plan import ModelFiles
    from llmplug.specs import Checkpoint, LazyTensor, ModelShape, Weight

MOST_TRIED = 64  # ranks, to name numbers that would do


def divide(config: ModelConfig, files: ModelFiles) -> ModelShape:
    """Return the shape of what a rank computes; where there is one, the model's own.

    Raises:
        ConfigError: they cannot share it; the message has the numbers of ranks that can.
    """
    from llmplug.engine.split import check_split, split_shape

    num_ranks, shape = config.parallel.tensor, files.shape
    if num_ranks == 1:
        return shape
    table = files.model.weights(files.checkpoint.config)
    obstacle = check_split(table, shape, num_ranks)
    if obstacle is not None:
        able = [n for n in range(1, MOST_TRIED + 1) if check_split(table, shape, n) is None]
        raise ConfigError(
            f"models.{config.name}: parallel.tensor: {num_ranks} ranks cannot share this model, "
            f"whose architecture is {files.model.name!r}: {obstacle}; "
            f"{_list_numbers(able)} would do"
        )
    return split_shape(shape, num_ranks)


def share_weights(
    files: ModelFiles, num_ranks: int, rank: int
) -> tuple[Sequence[Weight], Mapping[str, LazyTensor]]:
    """Return the weights that a rank holds, and its part of each of their tensors."""
    table, tensors = files.model.weights(files.checkpoint.config), files.checkpoint.tensors
    if num_ranks == 1:
        return table, tensors
    from llmplug.engine.loading import list_weights
    from llmplug.engine.split import split_weights

    listed = list_weights(table, files.shape.num_layers, tensors)
    there = [w for w in listed if all(name in tensors for name in (*w.sources, *w.bias))]
    return split_weights(there, tensors, rank, num_ranks)


def check_meeting(config: ModelConfig) -> None:
    """Make sure that ranks, if they are on several machines, can find each other.

    Raises:
        ConfigError: the config does not say how.
    """
    if config.parallel.nodes > 1:
        find_meeting(config)


def find_meeting(config: ModelConfig) -> tuple[str, int, str]:
    """Return where ranks of several machines meet, and by what they know each other.

    Returns:
        Host, port, secret.

    Raises:
        ConfigError: the config does not say.
    """
    from llmplug.config import split_address

    address, secret = config.parallel.address, config.parallel.secret
    if address is None or secret is None:
        wanted = {"parallel.address": address, "parallel.secret": secret}
        missing = " and ".join(key for key, value in wanted.items() if value is None)
        raise ConfigError(
            f"models.{config.name}: parallel.nodes: ranks of {config.parallel.nodes} machines find "
            f"each other by {missing}, the same on each"
        )
    return *split_address(address), secret


def describe_for_others(config: ModelConfig) -> dict[str, Any]:
    """Return what ranks of other machines must have in their config too."""
    told = config.model_dump(mode="json", exclude={"source", "aliases"})
    del told["parallel"]["secret"]
    return told


def check_same(told: Mapping[str, Any], config: ModelConfig) -> None:
    """Make sure that a model's section is what rank 0 has.

    Raises:
        ConfigError: it is not; the message has the keys.
    """
    ours = _flatten(describe_for_others(config))
    theirs = _flatten(told)
    keys = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
    if keys:
        shown = "; ".join(f"{key} is {ours.get(key)!r}, not {theirs.get(key)!r}" for key in keys)
        raise ConfigError(f"models.{config.name} differs from that of rank 0: {shown}")


def digest_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Return what two checkpoints have in common only if they are of one form: no number is read.

    Of the architecture, and of each tensor's name, shape and format.
    """
    described = [
        checkpoint.config,
        [[name, each.shape, each.format] for name, each in sorted(checkpoint.tensors.items())],
    ]
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).digest()


def _flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        inside = _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
        flat |= inside or {prefix + key: value}
    return flat


def _list_numbers(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
