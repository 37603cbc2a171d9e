"""Device, number format and memory of one model: measured or computed, never guessed in silence."""

from __future__ import annotations

import math
import os
from collections import Counter
from typing import TYPE_CHECKING

from llmplug.errors import ConfigError, KernelInputError
from llmplug.plan import Choice, MemoryPlan, Place, format_bytes
from llmplug.specs import KeptWeight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llmplug.config import ModelConfig
    from llmplug.plan import EnginePlan
    from llmplug.pooling import Pooling
    from llmplug.specs import LazyTensor, ModelShape, Weight

    Keep = Callable[[LazyTensor, str], KeptWeight | None]  # of a KernelSpec

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}
# What `cache.memory: auto` may take of the memory that is free: a CPU is shared with others.
AUTO_CACHE_SHARE = {"cpu": 0.25, "cuda": 0.85}


def choose_device(config: ModelConfig) -> Choice:
    """Choose where the model runs. An absent device that was asked for is an error."""
    import torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for, but torch finds no GPU; use cpu or auto")
    if config.device != "cpu" and torch.cuda.is_available():
        _check_gpus(config, torch.cuda.device_count())
    if config.device != "auto":
        return Choice(topic="device", chosen=config.device, why="the config says so")
    if torch.cuda.is_available():
        return Choice(topic="device", chosen="cuda", why=torch.cuda.get_device_name())
    return Choice(topic="device", chosen="cpu", why="torch finds no GPU")


def _check_gpus(config: ModelConfig, num_gpus: int) -> None:
    num_wanted = config.replicas * config.parallel.ranks_per_node
    if num_wanted > num_gpus:
        raise ConfigError(
            f"replicas x parallel.tensor: {num_wanted} processes here take a GPU each, and torch "
            f"finds {num_gpus}; set no more of them, or device: cpu"
        )


def take_gpu(place: Place) -> None:
    """Have torch mean an engine's own GPU by `cuda`."""
    import torch

    torch.cuda.set_device(place.first_device)


def place_replicas(config: ModelConfig) -> list[Place]:
    """Give each replica of a model its part of the machine, once and for all its lives.

    Replicas that start together would all see the same free memory, and one that is started again
    what the others have left of it.
    """
    if config.replicas == 1:
        return [Place()]
    host_bytes = measure_available("cpu") // config.replicas
    return [
        Place(first_device=i * config.parallel.tensor, host_bytes=host_bytes)
        for i in range(config.replicas)
    ]


def share_threads(config: ModelConfig) -> int | None:
    """Return how many threads of the CPU a process takes; None: as many as torch does by itself."""
    import torch

    num_sharing = config.replicas * config.parallel.ranks_per_node
    if num_sharing == 1:
        return config.threads
    return max(1, (config.threads or torch.get_num_threads()) // num_sharing)


def choose_dtype(config: ModelConfig, device: str) -> Choice:
    """Choose the number format of activations and dense weights."""
    if config.dtype != "auto":
        return Choice(topic="dtype", chosen=config.dtype, why="the config says so")
    if device == "cpu":
        return Choice(topic="dtype", chosen="float32", why="the fastest on CPUs without AMX")
    return Choice(topic="dtype", chosen="bfloat16", why="the default on GPUs")


def choose_launch(config: ModelConfig, device: str) -> Choice:
    """Choose whether a step waits for the tokens of the last one: `ahead` or `in turn`."""
    wanted = config.scheduler.launch_ahead
    if wanted != "auto":
        chosen = "ahead" if wanted else "in turn"
        return Choice(topic="launch of steps", chosen=chosen, why="the config says so")
    if device == "cuda":
        return Choice(topic="launch of steps", chosen="ahead", why="a GPU need not wait for us")
    return Choice(topic="launch of steps", chosen="in turn", why="the host itself computes them")


def choose_context_length(config: ModelConfig, shape: ModelShape) -> Choice:
    """Choose the longest sequence, prompt and answer together."""
    limit = shape.context_length
    if config.context_length is None:
        return Choice(topic="context length", chosen=str(limit), why="the checkpoint's own")
    if config.context_length > limit:
        raise ConfigError(
            f"context_length: {config.context_length} is more than the {limit} positions "
            "that this checkpoint is made for"
        )
    why = f"the config says so; the checkpoint could do {limit}"
    return Choice(topic="context length", chosen=str(config.context_length), why=why)


def plan_memory(
    config: ModelConfig,
    shape: ModelShape,
    *,
    weights: int,
    device: str,
    dtype: str,
    cache_dtype: str,
    context_length: int,
    is_pooling: bool = False,
    place: Place = Place(),  # noqa: B008 - it is frozen
) -> tuple[int, MemoryPlan]:
    """Compute how many pages the cache gets, and where all memory goes.

    Args:
        weights: bytes.
        is_pooling: texts are read whole, and nothing is kept of them after their step.

    Returns:
        (pages, plan).

    Raises:
        ConfigError: it does not fit; the message has the sum and three ways out.
    """
    page_size = config.cache.page_size
    kv_per_token = sum(
        2 * layer.num_kv_heads * layer.head_width * DTYPE_BYTES[cache_dtype]
        for layer in shape.layers
    )
    page_bytes = kv_per_token * page_size
    available = measure_available(device)
    if device == "cpu" and place.host_bytes is not None:
        available = min(available, place.host_bytes)
    if device == "cpu":
        available //= config.parallel.ranks_per_node
    workspace = estimate_workspace(config, shape, dtype)
    pages_per_sequence = math.ceil(context_length / page_size)
    wanted = config.scheduler.max_sequences * pages_per_sequence
    if place.num_pages is not None:
        num_pages = place.num_pages
    elif is_pooling:
        # Those of one step; the last page of each text is not full.
        longest = max(config.scheduler.max_batch_tokens, context_length)
        step_pages = math.ceil(longest / page_size) + config.scheduler.max_sequences
        num_pages = step_pages if shape.layers else 1
    elif config.cache.memory == "auto":
        room = int((available - weights - workspace) * AUTO_CACHE_SHARE[device])
        num_pages = min(wanted, room // page_bytes)
    else:
        num_pages = min(wanted, config.cache.memory // page_bytes)
    plan = MemoryPlan(
        weights=weights,
        kv_per_token=kv_per_token,
        cache=num_pages * page_bytes,
        workspace=workspace,
        available=available,
    )
    if place.num_pages is not None:  # rank 0 has asked, when none of them had taken anything
        return num_pages, plan
    is_short = num_pages < pages_per_sequence and not is_pooling
    if is_short or plan.total > available:
        raise ConfigError(explain_shortage(plan, context_length, num_pages * page_size, device))
    return num_pages, plan


def fit_cache(plan: EnginePlan, *, weights: int, workspace: int, free: int) -> MemoryPlan:
    """Size the cache anew, once the weights are loaded and a full step was measured.

    Args:
        weights: bytes that they take on the device.
        workspace: bytes that a full step takes beside them and the cache.
        free: bytes that are free beside the weights.

    Raises:
        ConfigError: it does not fit; the message has the sum and three ways out.
    """
    settings = plan.settings
    page_bytes = plan.memory.kv_per_token * settings.page_size
    pages_per_sequence = math.ceil(settings.context_length / settings.page_size)
    room = int((free - workspace) * AUTO_CACHE_SHARE[plan.device])
    num_pages = min(settings.max_sequences * pages_per_sequence, room // page_bytes)
    measured = MemoryPlan(
        weights=weights,
        kv_per_token=plan.memory.kv_per_token,
        cache=max(0, num_pages) * page_bytes,
        workspace=workspace,
        available=weights + free,
    )
    if num_pages < pages_per_sequence:
        num_tokens = max(0, num_pages) * settings.page_size
        raise ConfigError(
            explain_shortage(measured, settings.context_length, num_tokens, plan.device)
        )
    return measured


def plan_weights(
    tensors: Mapping[str, LazyTensor],
    table: Sequence[Weight],
    num_layers: int,
    *,
    keep: Keep | None,
    wanted: str,
    dtype: str,
) -> tuple[int, Choice]:
    """Compute how weights will be kept, from headers alone.

    Args:
        tensors: by name, whole or a rank's share of each.
        keep: of the kernel that serves `linear`; None: dense, in `dtype`.
        wanted: `weights.format` of the config.

    Returns:
        (bytes of all weights, what is chosen for the linear ones).

    Raises:
        KernelInputError: the kernel cannot keep a weight in the wanted format.
    """
    total, formats, reasons = 0, Counter[str](), dict[str, None]()
    for weight in table:
        for layer in range(num_layers) if "{layer}" in weight.name else (0,):
            for name in _names(weight, layer, tensors):
                tensor = tensors.get(name)
                if tensor is None:
                    continue  # loading says which one is missing
                if weight.kind != "linear" or len(tensor.shape) != 2:
                    total += math.prod(tensor.shape) * DTYPE_BYTES[dtype]
                    continue
                kept = keep_linear(tensor, keep, wanted, dtype)
                reasons[kept.reason] = None
                formats[kept.format] += 1
                total += kept.num_bytes
    shown = ", ".join(f"{count} {name}" for name, count in formats.most_common())
    return total, Choice(topic="linear weights", chosen=shown, why="; ".join(reasons))


def count_dense_bytes(pooling: Pooling | None, dtype: str) -> int:
    """Bytes of the layers behind a pooling."""
    layers = () if pooling is None else pooling.dense
    return sum(
        (each.num_inputs + each.has_bias) * each.num_outputs * DTYPE_BYTES[dtype] for each in layers
    )


def keep_linear(tensor: LazyTensor, keep: Keep | None, wanted: str, dtype: str) -> KeptWeight:
    """Compute how one weight of a linear layer will be kept; for the arguments see above.

    Raises:
        KernelInputError: not in the wanted format.
    """
    kept = None if keep is None else keep(tensor, wanted)
    if kept is not None:
        return kept
    if wanted not in {"auto", dtype}:
        raise KernelInputError(
            f"weights.format is {wanted}, but the linear kernel in use keeps no such weights; "
            f"dense ones it keeps in {dtype}: set it to auto, or add or unblock a kernel plugin "
            f"that keeps {wanted}"
        )
    why = f"dense, as the kernel keeps them; weights.format is {wanted}"
    return KeptWeight(dtype, math.prod(tensor.shape) * DTYPE_BYTES[dtype], why)


def _names(weight: Weight, layer: int, tensors: Mapping[str, LazyTensor]) -> tuple[str, ...]:
    """Return the checkpoint's tensors that one entry of a weight table reads."""
    sources = tuple(name.replace("{layer}", str(layer)) for name in weight.sources)
    if weight.tied_to and not all(name in tensors for name in sources):
        sources = weight.tied_to
    return (*sources, *(name.replace("{layer}", str(layer)) for name in weight.bias))


def estimate_workspace(config: ModelConfig, shape: ModelShape, dtype: str) -> int:
    """Estimate what a full step needs beside weights and cache: logits twice, activations."""
    logits = 2 * 4 * config.scheduler.max_sequences * shape.vocab_size
    # Residual, normed input, q/k/v, gate/up and their product: about twelve widths a token.
    activations = 12 * shape.width * config.scheduler.max_batch_tokens * DTYPE_BYTES[dtype]
    return logits + activations


def measure_available(device: str) -> int:
    """Return the bytes that are free on the device now."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    limit = _read_cgroup_limit()
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = _read_meminfo_available() or free
    return min(available, limit) if limit is not None else available


def _read_meminfo_available() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:  # not Linux: the caller falls back to sysconf
        return None
    return None


def _read_cgroup_limit() -> int | None:
    """Return the memory that a container leaves us, None outside of one."""
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            limit = file.read().strip()
        with open("/sys/fs/cgroup/memory.current", encoding="ascii") as file:
            current = int(file.read())
    except OSError:  # no cgroup v2
        return None
    return None if limit == "max" else max(0, int(limit) - current)


def explain_shortage(plan: MemoryPlan, context_length: int, tokens: int, device: str) -> str:
    """Say what does not fit, as a sum, and three ways out.

    Args:
        tokens: that the cache holds.
    """
    return (
        f"not enough memory on {device}: weights {format_bytes(plan.weights)} + cache "
        f"{format_bytes(plan.cache)} ({tokens} tokens) + workspace {format_bytes(plan.workspace)} "
        f"= {format_bytes(plan.total)} of {format_bytes(plan.available)} available, and the cache "
        f"must hold at least one sequence of {context_length} tokens; set a smaller "
        "context_length, a larger cache.memory, or a smaller scheduler.max_sequences"
    )
