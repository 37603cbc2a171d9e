"""Launcher of the op `decoder_layer`; what it runs is in csrc/decoder_layer.cpp.

Legend: T packed tokens, D model width, N query heads, K key/value heads, H head width.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llmplug import KernelInputError
from llmplug_cpu.attention import CACHE_KINDS, check_batch, refuse_other_scores
from llmplug_cpu.library import as_rows, load_library
from llmplug_cpu.linear import PackedLinear

if TYPE_CHECKING:
    from llmplug.ops import AttentionBatch, DecoderLayer, KVCache

_POINTER, _INT64, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Layer(ctypes.Structure):
    """`DecoderLayer` of csrc/decoder_layer.cpp."""

    _fields_ = (
        *((name, _POINTER) for name in ("attention_norm", "qkv", "q_norm", "k_norm", "o",
                                        "mlp_norm", "gate_up", "down", "rope_table")),
        *((name, _INT64) for name in ("width", "num_heads", "num_kv_heads", "head_width",
                                      "half_rotary", "window")),
        ("scale", _FLOAT),
        ("eps", _FLOAT),
    )  # fmt: skip


class _Step(ctypes.Structure):
    """`DecoderStep` of csrc/decoder_layer.cpp."""

    _fields_ = (
        ("residual", _POINTER),
        ("x", _POINTER),
        ("width", _INT64),
        ("has_x", _INT64),
        ("num_tokens", _INT64),
        *((name, _POINTER) for name in ("positions", "slots", "query_starts", "cached_lens",
                                        "block_table")),
        ("table_stride", _INT64),
        ("num_sequences", _INT64),
    )  # fmt: skip


@dataclass(slots=True)
class PreparedLayer:
    """What `FusedDecoderLayer.prepare` makes; the library reads `call`."""

    call: _Layer
    width: int
    heads: tuple[int, int]  # key/value heads, head width
    num_positions: int
    keep: tuple[object, ...]  # what `call` points to
    # The cache it was called with last, nearly always the same, and how the library finds it.
    cache: KVCache | None = None
    cache_arguments: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(slots=True)
class _Plan:
    """What all layers of a step share."""

    call: _Step
    positions_T: torch.Tensor  # as they were given
    last_position: int
    keep: tuple[torch.Tensor, ...]  # what `call` points to, beside the batch
    # What the layer before has returned: `call` points to both, nothing is left to check.
    x_TD: torch.Tensor | None = None
    residual_TD: torch.Tensor | None = None


class FusedDecoderLayer:
    """Twin of `llmplug.ops.ComposedDecoderLayer`, over `PanelLinear` and `GroupAttention`."""

    def __init__(self) -> None:
        self._run = load_library().llmplug_decoder_layer

    def prepare(self, layer: DecoderLayer) -> PreparedLayer:
        """Check a layer's shapes, once, and write down where its weights are.

        Raises:
            KernelInputError: shapes do not fit, a weight was packed by another kernel, or scores
                have a soft cap or sinks.
        """
        refuse_other_scores(layer.soft_cap, layer.sinks_N)
        width, head_width = layer.attention_norm.numel(), layer.head_width
        linears = (layer.qkv, layer.o, layer.gate_up, layer.down)
        if not all(isinstance(linear, PackedLinear) for linear in linears):
            raise KernelInputError("a decoder layer needs the weights that this plugin packs")
        q_width = layer.num_heads * head_width
        wanted = (
            (width, q_width + 2 * layer.num_kv_heads * head_width),
            (q_width, width),
            (width, 2 * layer.down.num_inputs),
            (layer.down.num_inputs, width),
        )
        found = tuple((linear.num_inputs, linear.num_outputs) for linear in linears)
        rotary = layer.rope_table_CR.shape[1]
        if found != wanted or rotary > head_width or layer.num_heads % layer.num_kv_heads:
            raise KernelInputError(f"a layer of linears {found}, where {wanted} fit together")
        norms = {
            name: None if weight is None else as_rows(weight, name)
            for name, weight in (("attention_norm", layer.attention_norm),
                                 ("mlp_norm", layer.mlp_norm),
                                 ("q_norm", layer.q_norm), ("k_norm", layer.k_norm))
        }  # fmt: skip
        sizes = {"attention_norm": width, "mlp_norm": width}
        for name, weight in norms.items():
            if weight is not None and weight.numel() != sizes.get(name, head_width):
                raise KernelInputError(f"{name} has {weight.numel()} numbers")
        table_CR = as_rows(layer.rope_table_CR, "rope_table_CR").contiguous()
        pointers = {name: None if w is None else w.data_ptr() for name, w in norms.items()}
        call = _Layer(
            **pointers,
            qkv=layer.qkv.handle, o=layer.o.handle, gate_up=layer.gate_up.handle,
            down=layer.down.handle, rope_table=table_CR.data_ptr(), width=width,
            num_heads=layer.num_heads, num_kv_heads=layer.num_kv_heads, head_width=head_width,
            half_rotary=rotary // 2, window=layer.window or 0, scale=layer.scale, eps=layer.eps,
        )  # fmt: skip
        keep = (linears, tuple(norms.values()), table_CR)
        heads = (layer.num_kv_heads, head_width)
        return PreparedLayer(call, width, heads, table_CR.shape[0], keep)

    def __call__(
        self,
        layer: PreparedLayer,
        x_TD: torch.Tensor | None,
        residual_TD: torch.Tensor,
        positions_T: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one layer; both results are written into what was given."""
        plan = batch.plans.get(self)
        if plan is None or plan.positions_T is not positions_T:
            plan = batch.plans[self] = _plan(batch, positions_T)
        if x_TD is None or x_TD is not plan.x_TD or residual_TD is not plan.residual_TD:
            x_TD, residual_TD = _point_to(plan, x_TD, residual_TD, layer.width)
        if cache is not layer.cache:
            _take_cache(layer, cache)
        if plan.last_position >= layer.num_positions or plan.call.width != layer.width:
            raise KernelInputError(
                f"positions up to {plan.last_position} and a width of {plan.call.width}, for a "
                f"layer of {layer.num_positions} positions and a width of {layer.width}"
            )
        self._run(ctypes.byref(layer.call), ctypes.byref(plan.call), *layer.cache_arguments)
        plan.call.has_x = 1
        return x_TD, residual_TD


def _point_to(
    plan: _Plan, x_TD: torch.Tensor | None, residual_TD: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Let the library read and write these; copies of them if they are not dense."""
    plan.call.has_x = x_TD is not None
    residual_TD = as_rows(residual_TD, "residual_TD").contiguous()
    x_TD = torch.empty_like(residual_TD) if x_TD is None else as_rows(x_TD, "x_TD").contiguous()
    shape = (plan.call.num_tokens, width)
    if residual_TD.shape != shape or x_TD.shape != shape:
        raise KernelInputError(
            f"x of {tuple(x_TD.shape)} and a residual of {tuple(residual_TD.shape)} for "
            f"{shape[0]} tokens of width {shape[1]}"
        )
    plan.call.x, plan.call.residual = x_TD.data_ptr(), residual_TD.data_ptr()
    plan.call.width = width
    plan.x_TD, plan.residual_TD = x_TD, residual_TD
    return x_TD, residual_TD


def _take_cache(layer: PreparedLayer, cache: KVCache) -> None:
    if cache.key.shape[1::2] != layer.heads:
        raise KernelInputError(
            f"a cache of heads {tuple(cache.key.shape[1::2])} for heads {layer.heads}"
        )
    kind = CACHE_KINDS[cache.key.dtype]
    layer.cache = cache
    layer.cache_arguments = (
        cache.key.data_ptr(), cache.value.data_ptr(), cache.page_size, kind
    )  # fmt: skip


def _plan(batch: AttentionBatch, positions_T: torch.Tensor) -> _Plan:
    """Fill in what all layers of a step share; the batch and the plan keep the tensors alive."""
    check_batch(batch)
    num_tokens = batch.slots_T.numel()
    for name, tensor in (("positions_T", positions_T), ("slots_T", batch.slots_T)):
        if tensor.dtype is not torch.int64 or tensor.shape != (num_tokens,):
            raise KernelInputError(f"{num_tokens} tokens need as many int64 numbers in {name}")
    if num_tokens != sum(batch.query_lens):
        raise KernelInputError(f"{num_tokens} slots for {sum(batch.query_lens)} tokens")
    dense_T, slots_T = positions_T.contiguous(), batch.slots_T.contiguous()
    call = _Step(
        num_tokens=num_tokens, positions=dense_T.data_ptr(), slots=slots_T.data_ptr(),
        query_starts=batch.query_starts_S1.data_ptr(), cached_lens=batch.cached_lens_S.data_ptr(),
        block_table=batch.block_table_SM.data_ptr(),
        table_stride=batch.block_table_SM.stride(0), num_sequences=batch.cached_lens_S.shape[0],
    )  # fmt: skip
    last_position = int(dense_T.max()) if num_tokens else -1
    return _Plan(call, positions_T, last_position, (dense_T, slots_T))
