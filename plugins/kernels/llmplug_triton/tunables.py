"""The free parameters of all kernels, by op; each is declared beside its kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmplug_triton.attention_workloads import DECODE, PREFILL
from llmplug_triton.choose_tokens import CHOOSE_TOKENS
from llmplug_triton.few_rows import FEW_ROWS
from llmplug_triton.filter_tokens import FILTER_TOKENS
from llmplug_triton.gelu_mul import GELU_MUL
from llmplug_triton.rms_norm import ADD_RMS_NORM, RMS_NORM
from llmplug_triton.rope_store import ROPE_STORE
from llmplug_triton.silu_mul import SILU_MUL
from llmplug_triton.weight_examples import SCALED_PRODUCT

if TYPE_CHECKING:
    from llmplug.ops import Sizes, Tunable

_TUNABLES: dict[str, list[Tunable]] = {
    "add_rms_norm": [ADD_RMS_NORM],
    "attention": [DECODE, PREFILL],
    "choose_tokens": [CHOOSE_TOKENS],
    "filter_tokens": [FILTER_TOKENS],
    "gelu_mul": [GELU_MUL],
    "linear": [FEW_ROWS, SCALED_PRODUCT],
    "rms_norm": [RMS_NORM],
    "rope_store": [ROPE_STORE],
    "silu_mul": [SILU_MUL],
}
_UNSEEN = {"PROGRAMS", "num_warps", "num_stages"}  # by the interpreter, which has one processor


def list_tunables(op: str, device: str) -> list[Tunable]:
    """Return what can be tried on a device; on CPUs candidates that are alike there are one."""
    if device != "cpu":
        return _TUNABLES[op]
    return [replace(each, candidates=_tell_apart(each.candidates)) for each in _TUNABLES[op]]


def _tell_apart(candidates: tuple[Sizes, ...]) -> tuple[Sizes, ...]:
    seen = {frozenset((n, v) for n, v in c.items() if n not in _UNSEEN): c for c in candidates}
    return tuple(seen.values())
