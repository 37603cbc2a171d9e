"""Kernels for x86 CPUs with AVX2, in C++: compiled at first use, kept in the user's cache folder.

`build.py` finds the compiler and makes the library, `library.py` is its interface, `arena.py` is
the memory that weights and caches live in. Every other file is the launcher of the op it is named
after; the kernels are in csrc. All compute in float32 or in exact integers, and no token's result
depends on the other tokens of its batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug import KernelSpec, hookimpl

if TYPE_CHECKING:
    from llmplug import KeptWeight, LazyTensor


def _supports(device: str, dtype: str) -> str | None:
    if device != "cpu":
        return f"it runs on a cpu, not on {device}"
    if dtype != "float32":
        return f"it computes in float32, not in {dtype}"
    from llmplug_cpu.build import find_reason_against

    return find_reason_against()


def _load_linear() -> Any:
    from llmplug_cpu.linear import PanelLinear

    return PanelLinear()


def _keep_weight(source: LazyTensor, wanted: str) -> KeptWeight:
    from llmplug_cpu.linear import keep_weight

    return keep_weight(source, wanted)


def _load_attention() -> Any:
    from llmplug_cpu.attention import GroupAttention

    return GroupAttention()


def _load_rms_norm() -> Any:
    from llmplug_cpu.rms_norm import make_rms_norm

    return make_rms_norm()


def _load_add_rms_norm() -> Any:
    from llmplug_cpu.rms_norm import make_add_rms_norm

    return make_add_rms_norm()


def _load_rope() -> Any:
    from llmplug_cpu.rope import make_rope

    return make_rope()


def _load_silu_mul() -> Any:
    from llmplug_cpu.silu_mul import make_silu_mul

    return make_silu_mul()


def _load_decoder_layer() -> Any:
    from llmplug_cpu.decoder_layer import FusedDecoderLayer

    return FusedDecoderLayer()


# What a fused op reads of other ops: packed weights and the cache.
_NEEDS = {"decoder_layer": ("linear", "attention")}


@hookimpl
def llmplug_kernels() -> list[KernelSpec]:
    """Offer twins of all ops but `embed`, which is a copy."""
    loaders = {
        "linear": _load_linear,
        "attention": _load_attention,
        "rms_norm": _load_rms_norm,
        "add_rms_norm": _load_add_rms_norm,
        "rope": _load_rope,
        "silu_mul": _load_silu_mul,
        "decoder_layer": _load_decoder_layer,
    }
    return [
        KernelSpec(
            op=op,
            name="avx2",
            supports=_supports,
            load=load,
            priority=20,
            keep=_keep_weight if op == "linear" else None,
            needs=_NEEDS.get(op, ()),
        )
        for op, load in loaders.items()
    ]
