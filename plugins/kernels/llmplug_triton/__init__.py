"""Kernels for NVIDIA GPUs in Triton, which compiles them when they are first called.

Every file is one op, kernel and launcher, and is named after it; `tensors.py` is what the launchers
share, `gated_rows.py` what the gates do, `scaled_product.py` and `weight_formats.py` are weights in
few bits. All sum in float32, and no token's result is to depend on
the other tokens of its batch. Without a GPU, Triton's interpreter runs them in the tests.
"""

from __future__ import annotations

import os
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from llmplug import KeptWeight, KernelSpec, LazyTensor, hookimpl

if TYPE_CHECKING:
    from llmplug.ops import Tunable, Tuning

_DTYPES = ("float32", "bfloat16", "float16")


def _supports(device: str, dtype: str) -> str | None:
    if device.partition(":")[0] != "cuda":
        return f"it runs on an NVIDIA GPU (cuda), not on {device}"
    if dtype not in _DTYPES:
        return f"it computes in {', '.join(_DTYPES)}, not in {dtype}"
    if find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    return None


def _load_rms_norm(tuning: Tuning | None = None) -> Any:
    from llmplug_triton.rms_norm import rms_norm

    return partial(rms_norm, tuning=tuning)


def _load_add_rms_norm(tuning: Tuning | None = None) -> Any:
    from llmplug_triton.rms_norm import add_rms_norm

    return partial(add_rms_norm, tuning=tuning)


def _load_layer_norm() -> Any:
    from llmplug_triton.layer_norm import layer_norm

    return layer_norm


def _load_text_attention() -> Any:
    from llmplug_triton.text_attention import text_attention

    return text_attention


def _load_pool_texts() -> Any:
    from llmplug_triton.pool_texts import pool_texts

    return pool_texts


def _load_silu_mul(tuning: Tuning | None = None) -> Any:
    from llmplug_triton.silu_mul import silu_mul

    return partial(silu_mul, tuning=tuning)


def _load_gelu_mul(tuning: Tuning | None = None) -> Any:
    from llmplug_triton.gelu_mul import gelu_mul

    return partial(gelu_mul, tuning=tuning)


def _load_rope() -> Any:
    from llmplug_triton.rope import rope

    return rope


def _load_attention(tuning: Tuning | None = None) -> Any:
    from llmplug_triton.attention import PagedAttention

    return PagedAttention(tuning)


def _load_rope_store(tuning: Tuning | None = None) -> Any:
    from llmplug_triton.rope_store import rope_store

    return partial(rope_store, tuning=tuning)


def _load_penalise_tokens() -> Any:
    from llmplug_triton.penalise_tokens import penalise_tokens

    return penalise_tokens


def _load_mask_tokens() -> Any:
    from llmplug_triton.mask_tokens import mask_tokens

    return mask_tokens


def _load_filter_tokens(tuning: Tuning | None = None) -> Any:
    from llmplug_triton.filter_tokens import filter_tokens

    return partial(filter_tokens, tuning=tuning)


def _load_choose_tokens(tuning: Tuning | None = None) -> Any:
    from llmplug_triton.choose_tokens import choose_tokens

    return partial(choose_tokens, tuning=tuning)


def _load_route_experts() -> Any:
    from llmplug_triton.route_experts import route_experts

    return route_experts


def _load_expert_mlp() -> Any:
    from llmplug_triton.expert_mlp import expert_mlp

    return expert_mlp


def _load_linear(tuning: Tuning | None = None) -> Any:
    from llmplug_triton.linear import Linear

    return Linear(tuning)


def _keep_weight(source: LazyTensor, wanted: str) -> KeptWeight | None:
    from llmplug_triton.weight_formats import keep_weight

    return keep_weight(source, wanted)


def _supports_scales(device: str) -> str | None:
    import torch

    from llmplug_triton.tensors import explain_no_fp8

    return explain_no_fp8(torch.device(device))


def _list_tunables(op: str, device: str) -> list[Tunable]:
    """Return the free parameters of a kernel; on a CPU the interpreter tries them."""
    if device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is imported
    from llmplug_triton.tunables import list_tunables

    return list_tunables(op, device)


# Ops whose kernels have free parameters.
_TUNABLE = {
    "add_rms_norm",
    "attention",
    "choose_tokens",
    "filter_tokens",
    "gelu_mul",
    "linear",
    "rms_norm",
    "rope_store",
    "silu_mul",
}
_WITH_CACHE = {"attention", "rope_store"}
# What a fused op reads of other ops: the cache.
_NEEDS = {"rope_store": ("attention",)}


@hookimpl
def llmplug_kernels() -> list[KernelSpec]:
    """Offer twins of ops, for NVIDIA GPUs."""
    loaders = {
        "rms_norm": _load_rms_norm,
        "add_rms_norm": _load_add_rms_norm,
        "layer_norm": _load_layer_norm,
        "text_attention": _load_text_attention,
        "pool_texts": _load_pool_texts,
        "silu_mul": _load_silu_mul,
        "gelu_mul": _load_gelu_mul,
        "rope": _load_rope,
        "attention": _load_attention,
        "linear": _load_linear,
        "penalise_tokens": _load_penalise_tokens,
        "mask_tokens": _load_mask_tokens,
        "filter_tokens": _load_filter_tokens,
        "choose_tokens": _load_choose_tokens,
        "route_experts": _load_route_experts,
        "expert_mlp": _load_expert_mlp,
        "rope_store": _load_rope_store,
    }
    return [
        KernelSpec(
            op=op,
            name="triton",
            supports=_supports,
            load=load,
            priority=20,
            keep=_keep_weight if op == "linear" else None,
            needs=_NEEDS.get(op, ()),
            supports_scales=_supports_scales if op in _WITH_CACHE else None,
            tunables=partial(_list_tunables, op) if op in _TUNABLE else None,
        )
        for op, load in loaders.items()
    ]
