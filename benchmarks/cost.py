"""What a model asks of a machine, and so the speed that no server can pass.

The limits are optimistic on purpose: they leave out attention's arithmetic, activations and the
host, and let reading and computing overlap. A number above one of them is therefore a mistake in
the measurement (a cached prompt, a lost token), and is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.probe import Probe
    from benchmarks.workload import Workload
    from llmplug.plan import ModelPlan

# One integer instruction multiplies four times as many 8-bit numbers as one FMA does float32.
INTEGER_SPEEDUP = 4.0
KV_BYTES = 2  # of one cached number: the least that is in use
FLOAT_FORMATS = {"F64", "F32", "F16", "BF16"}


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
    tpot_s: float
    bound: str  # memory or compute


def find_limit(cost: ModelCost, machine: Probe, workload: Workload, concurrency: int) -> Limit:
    """Compute the limit of a closed loop of `concurrency` clients.

    Of each request, all tokens but a cached prefix are computed; each step reads the weights
    once for at most `concurrency` new tokens, and what of the sequences' keys and values is not
    shared.
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
        tpot_s=max(read_s + attend_s, token_compute_s),
        bound="memory" if memory_s >= compute_s else "compute",
    )


def read_cost(plan: ModelPlan) -> ModelCost:
    """Read from a model's weight table and file headers what one pass takes.

    Bytes are those of the file: a kernel that unpacks weights reads more, none reads fewer.
    """
    tensors = plan.checkpoint.tensors
    weight_bytes = body = head = 0
    is_integer = False
    for weight in plan.model.weights(plan.checkpoint.config):
        if weight.kind == "embedding":
            continue  # a few rows a step
        for layer in range(plan.shape.num_layers) if "{layer}" in weight.name else [None]:
            for source in weight.sources:
                name = source.format(layer=layer)
                if name not in tensors:
                    name = weight.tied_to[weight.sources.index(source)].format(layer=layer)
                tensor = tensors[name]
                weight_bytes += tensor.num_bytes
                is_integer |= tensor.format not in FLOAT_FORMATS
                if weight.kind == "linear" and layer is None:
                    head += math.prod(tensor.shape)
                elif weight.kind == "linear":
                    body += math.prod(tensor.shape)
    kv = sum(2 * layer.num_kv_heads * layer.head_width for layer in plan.shape.layers)
    return ModelCost(weight_bytes, body, head, kv * KV_BYTES, is_integer)
