"""What a model asks of a machine, and so the speed that no server can pass.

The limits are optimistic on purpose: they leave out attention's arithmetic, activations and the
host, and let reading and computing overlap. A number above one of them is therefore a mistake in
the measurement (a cached prompt, a lost token), and is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmplug.resources import keep_linear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.probe import Probe
    from benchmarks.workload import Workload
    from llmplug import KeptWeight, LazyTensor
    from llmplug.plan import ModelPlan
    from llmplug.registry import Registry
    from llmplug.specs import Weight

    Keep = Callable[[LazyTensor], KeptWeight]

# One integer instruction multiplies four times as many 8-bit numbers as one FMA does float32.
INTEGER_SPEEDUP = 4.0
KV_BYTES = 2  # of one cached number: the least that is in use
FLOAT_FORMATS = {"F64", "F32", "F16", "BF16", "float32", "float16", "bfloat16"}


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What one pass through the model takes.

    Attributes:
        weight_bytes: read once a step, whatever the batch: all but an embedding table that is not
            the output head too.
        body_params: numbers that every token is multiplied with.
        head_params: numbers that every sampled token is multiplied with besides.
        kv_bytes_per_token: read for each token that a new one attends to.
        is_integer: whether products may run on 8-bit numbers.
    """

    weight_bytes: int
    body_params: int
    head_params: int
    kv_bytes_per_token: int = 0
    is_integer: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """The best that the machine allows."""

    output_tok_s: float
    ttft_s: float
    tpot_s: float
    bound: str  # memory or compute


def find_limit(cost: ModelCost, machine: Probe, workload: Workload, concurrency: int) -> Limit:
    """Compute the limit of a closed loop of `concurrency` clients.

    Of each request, all tokens but a cached prefix are computed; each step reads the weights
    once for at most `concurrency` new tokens, and what of the sequences' keys and values is not
    shared. The first token waits for its own prompt and for nobody else's.
    """
    bandwidth = machine.bandwidth_gb_s * 1e9
    flops = machine.gemm_gflop_s * 1e9 * (INTEGER_SPEEDUP if cost.is_integer else 1.0)
    output = workload.output_tokens
    prompt = workload.prompt_tokens - workload.shared_prefix
    mean_context = prompt + output / 2
    read_s = cost.weight_bytes / bandwidth
    attend_s = cost.kv_bytes_per_token * mean_context / bandwidth
    memory_s = output * (read_s / concurrency + attend_s)
    multiplied = (prompt + output) * cost.body_params + output * cost.head_params
    compute_s = 2 * multiplied / flops
    token_compute_s = 2 * (cost.body_params + cost.head_params) / flops
    return Limit(
        output_tok_s=output / max(memory_s, compute_s),
        ttft_s=max(read_s, 2 * prompt * cost.body_params / flops),
        tpot_s=max(read_s + attend_s, token_compute_s),
        bound="memory" if memory_s >= compute_s else "compute",
    )


def find_cost(config_path: Path | None, sets: Sequence[str] = ()) -> ModelCost | None:
    """Plan the first model of a config and count what it takes; None without a config."""
    if config_path is None:
        return None
    from llmplug.assemble import load_registry, plan_model
    from llmplug.config import load

    config = load(config_path, sets=list(sets))
    registry = load_registry(config)
    plan = plan_model(config.models[0], registry, lambda stage, done, total: None)
    return read_cost(plan, bind_keep(plan, registry))


def bind_keep(plan: ModelPlan, registry: Registry) -> Keep:
    """Return how the kernel that serves `linear` keeps a weight."""
    from llmplug.assemble import find_keep

    keep = find_keep(plan.kernels, registry)
    wanted = plan.config.weights.format
    return lambda tensor: keep_linear(tensor, keep, wanted, plan.dtype)


def list_tensors(plan: ModelPlan) -> Iterator[tuple[Weight, bool, LazyTensor]]:
    """Yield what a step reads, but biases: (entry of the table, in a layer?, tensor of the file).

    An embedding table is left out, of which a step reads a few rows; an output head that is tied
    to it is not.
    """
    tensors = plan.checkpoint.tensors
    for weight in plan.model.weights(plan.checkpoint.config):
        is_layer = "{layer}" in weight.name
        if weight.kind == "embedding":
            continue
        for layer in range(plan.shape.num_layers) if is_layer else [0]:
            for at, source in enumerate(weight.sources):
                name = source.format(layer=layer)
                if name not in tensors:
                    name = weight.tied_to[at].format(layer=layer)
                yield weight, is_layer, tensors[name]


def read_cost(plan: ModelPlan, keep: Keep | None = None) -> ModelCost:
    """Read from a model's weight table and file headers what one pass takes.

    Bytes of a weight are the fewer of those in its file and those that are kept of it: unpacking
    is a choice, and no reason for a lower limit.
    """
    weight_bytes = body = head = 0
    is_integer = False
    for weight, is_layer, tensor in list_tensors(plan):
        num_bytes, formats = tensor.num_bytes, {tensor.format}
        if keep is not None and weight.kind == "linear":
            kept = keep(tensor)
            num_bytes = min(num_bytes, kept.num_bytes)
            formats.add(kept.format)
        weight_bytes += num_bytes
        is_integer |= not formats <= FLOAT_FORMATS
        if weight.kind == "linear" and is_layer:
            body += math.prod(tensor.shape)
        elif weight.kind == "linear":
            head += math.prod(tensor.shape)
    kv = sum(2 * layer.num_kv_heads * layer.head_width for layer in plan.shape.layers)
    return ModelCost(weight_bytes, body, head, kv * KV_BYTES, is_integer)
