"""The number format of cached keys and values, and the scales that a checkpoint has for 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.cache_scales import find_scales
from llmplug.errors import ConfigError
from llmplug.plan import Choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.cache_scales import ScaleNames
    from llmplug.config import ModelConfig
    from llmplug.ops import KernelChoice
    from llmplug.plan import ModelFiles
    from llmplug.specs import KernelSpec

FP8 = "float8_e4m3fn"
_TOPIC = "cache dtype"


def choose_cache(
    config: ModelConfig,
    files: ModelFiles,
    dtype: str,
    device: str,
    kernels: Sequence[KernelChoice],
    specs: Sequence[tuple[KernelSpec, str]],
) -> tuple[Choice, tuple[ScaleNames, ...]]:
    """Choose the format of caches, and which tensors have their scales; none unless in 8 bits.

    Args:
        specs: (kernel, name of the plugin that brought it), of which `kernels` are.

    Raises:
        CheckpointError: the scales do not fit the layers.
        ConfigError: 8 bits are asked for, and a kernel does not heed the checkpoint's scales.
    """
    from llmplug.ops.scale_support import find_obstacle

    scales = _find_scales(files)
    obstacle = find_obstacle(kernels, specs, device) if scales else None
    choice = _choose_dtype(config.cache.dtype, dtype, has_scales=bool(scales), obstacle=obstacle)
    return choice, scales if choice.chosen == FP8 else ()


def refuse_obstacle(obstacle: str | None) -> None:
    """Raise ConfigError where a kernel does not heed the scales of a cache in 8 bits.

    Args:
        obstacle: which one, and why; None: all do.
    """
    if obstacle is not None:
        raise ConfigError(
            "cache.dtype: the checkpoint has scales for keys and values in 8 bits, and "
            f"{obstacle}; set another cache.dtype, or block the kernel with kernels.block"
        )


def _find_scales(files: ModelFiles) -> tuple[ScaleNames, ...]:
    from llmplug.engine.loading import find_unread, list_weights

    tensors, num_layers = files.checkpoint.tensors, files.shape.num_layers
    weights = list_weights(files.model.weights(files.checkpoint.config), num_layers, tensors)
    unread = find_unread(weights, files.model.ignored, num_layers, tensors)
    return find_scales(unread, len(files.shape.layers))


def _choose_dtype(wanted: str, dtype: str, *, has_scales: bool, obstacle: str | None) -> Choice:
    if wanted == "fp8":
        refuse_obstacle(obstacle)
        why = "the config says so, with " + ("the checkpoint's" if has_scales else "no") + " scales"
        return Choice(topic=_TOPIC, chosen=FP8, why=why)
    if wanted == "auto" and has_scales and obstacle is None:
        why = "the checkpoint has scales for keys and values in 8 bits"
        return Choice(topic=_TOPIC, chosen=FP8, why=why)
    chosen, why = wanted, "the config says so"
    if wanted == "auto" and dtype == "float32":
        why = "half the bytes of float32, and 11 bits of precision for numbers of one size"
        chosen = "float16"
    elif wanted == "auto":
        chosen, why = dtype, "as the model computes"
    if has_scales:
        why += "; the checkpoint's scales for 8 bits are not used"
        why += f": {obstacle}" if wanted == "auto" else ""
    return Choice(topic=_TOPIC, chosen=chosen, why=why)
