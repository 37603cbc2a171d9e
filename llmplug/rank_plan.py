"""How a model is planned for several ranks: whether they can share it, and what each holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmplug.config import ModelConfig
    from llmplug.plan import ModelFiles
    from llmplug.specs import LazyTensor, ModelShape, Weight

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
            f"models.{config.name}: parallel.tensor: {num_ranks} ranks cannot share this model: "
            f"{obstacle}; {_list_numbers(able)} would do"
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


def _list_numbers(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
