"""Launcher of the op `attention`.

The kernel is in csrc/attention.cpp, the layout of the cache in csrc/cache.h.

Legend: T packed tokens, S sequences, N query heads, K key/value heads, H head width, P page size,
G groups of eight tokens in a page, h the head width rounded up to 8.
"""

from __future__ import annotations

import ctypes

import torch

from llmplug import KernelInputError
from llmplug.ops import AttentionBatch, KVCache
from llmplug_cpu.arena import Arena
from llmplug_cpu.library import load_library
from llmplug_cpu.rope import as_heads

GROUP = 8  # tokens; kGroup in csrc/cache.h
CACHE_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class _AttentionCall(ctypes.Structure):
    """`AttentionCall` of csrc/attention.h."""

    _fields_ = (
        *((name, ctypes.c_void_p if name in {"q", "out", "keys", "values", "query_starts",
                                             "cached_lens", "block_table"} else ctypes.c_int64)
          for name in ("q", "q_stride", "out", "keys", "values", "query_starts", "cached_lens",
                       "block_table", "table_stride", "num_sequences", "num_heads",
                       "num_kv_heads", "head_width", "page_size", "window", "cache_kind")),
        ("scale", ctypes.c_float),
    )  # fmt: skip


class GroupAttention:
    """Twin of `llmplug.ops.PagedAttention`: keys [pages, K, G, H, 8], values [pages, K, G, 8, h].

    The cache may be float32, bfloat16 or float16; all arithmetic is float32.
    """

    def __init__(self) -> None:
        library = load_library()
        self._attend = library.llmplug_attend
        self._store = library.llmplug_store
        self._arena = Arena()

    def allocate(
        self,
        num_pages: int,
        page_size: int,
        num_kv_heads: int,
        head_width: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> KVCache:
        """Make one layer's cache, zeroed; the engine owns it and drops it."""
        if dtype not in CACHE_KINDS or torch.device(device).type != "cpu":
            raise KernelInputError(f"no cache of {dtype} on {device}: float32, bfloat16 or float16")
        groups = -(-page_size // GROUP)
        padded = -(-head_width // 8) * 8
        lead = (num_pages, num_kv_heads, groups)
        return KVCache(
            key=self._zeros((*lead, head_width, GROUP), dtype),
            value=self._zeros((*lead, GROUP, padded), dtype),
            page_size=page_size,
        )

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        return self._arena.allocate(num_bytes).view(dtype).view(shape)

    def store(
        self, cache: KVCache, k_TKH: torch.Tensor, v_TKH: torch.Tensor, slots_T: torch.Tensor
    ) -> None:
        """Write new keys (already rotated) and values into their slots."""
        k_TKH, v_TKH = _as_heads(k_TKH), _as_heads(v_TKH)
        num_tokens, num_kv_heads, width = k_TKH.shape
        if k_TKH.shape != v_TKH.shape or cache.key.shape[1::2] != (num_kv_heads, width):
            raise KernelInputError(
                f"keys of {tuple(k_TKH.shape)} and values of {tuple(v_TKH.shape)} "
                f"for a cache of {cache.key.shape[1]} heads of {cache.key.shape[3]}"
            )
        if slots_T.dtype is not torch.int64 or slots_T.numel() != num_tokens:
            raise KernelInputError(f"{num_tokens} tokens need as many int64 slots")
        slots_T = slots_T.contiguous()
        self._store(
            k_TKH.data_ptr(), k_TKH.stride(0), v_TKH.data_ptr(), v_TKH.stride(0),
            slots_T.data_ptr(), num_tokens, num_kv_heads, width, cache.page_size,
            CACHE_KINDS[cache.key.dtype], cache.key.data_ptr(), cache.value.data_ptr(),
        )  # fmt: skip

    def attend(
        self,
        q_TNH: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
        *,
        scale: float,
        window: int | None = None,
        soft_cap: float | None = None,
        sinks_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend each new token to the cached tokens of its own sequence, causally.

        Raises:
            KernelInputError: there is a soft cap or a sink, which the library does not have.
        """
        refuse_other_scores(soft_cap, sinks_N)
        q_TNH = as_heads(q_TNH, "q_TNH")
        num_tokens, num_heads, width = q_TNH.shape
        num_kv_heads = cache.key.shape[1]
        if width != cache.key.shape[3] or num_heads % num_kv_heads:
            raise KernelInputError(
                f"{num_heads} query heads of {width} for a cache of "
                f"{num_kv_heads} heads of {cache.key.shape[3]}"
            )
        call = batch.plans.get(self)
        if call is None:
            call = batch.plans[self] = _plan(batch)
        out_TNH = torch.empty((num_tokens, num_heads, width))
        call.q, call.q_stride, call.out = q_TNH.data_ptr(), q_TNH.stride(0), out_TNH.data_ptr()
        call.keys, call.values = cache.key.data_ptr(), cache.value.data_ptr()
        call.num_heads, call.num_kv_heads, call.head_width = num_heads, num_kv_heads, width
        call.page_size, call.window = cache.page_size, window or 0
        call.cache_kind, call.scale = CACHE_KINDS[cache.key.dtype], scale
        self._attend(ctypes.byref(call))
        return out_TNH


def refuse_other_scores(soft_cap: float | None, sinks_N: torch.Tensor | None) -> None:
    """Raise KernelInputError where scores are to be changed before they are weights."""
    if soft_cap is not None or sinks_N is not None:
        raise KernelInputError(
            "the AVX2 attention has no soft cap and no sinks, which this model needs: block it "
            "with kernels.block: [avx2], and torch's own operations serve the model"
        )


def check_batch(batch: AttentionBatch) -> None:
    """Raise KernelInputError unless the kernels can read the batch's tensors as they are."""
    for tensor in (batch.query_starts_S1, batch.cached_lens_S, batch.block_table_SM):
        if tensor.dtype is not torch.int32 or not tensor.is_cpu or tensor.stride(-1) != 1:
            raise KernelInputError(
                "the batch's starts, lengths and block table must be dense int32 on the cpu"
            )


def _plan(batch: AttentionBatch) -> _AttentionCall:
    """Fill in what all layers of a step share; the batch keeps the tensors alive."""
    check_batch(batch)
    starts_S1, lens_S, table_SM = batch.query_starts_S1, batch.cached_lens_S, batch.block_table_SM
    return _AttentionCall(
        query_starts=starts_S1.data_ptr(), cached_lens=lens_S.data_ptr(),
        block_table=table_SM.data_ptr(), table_stride=table_SM.stride(0),
        num_sequences=lens_S.shape[0],
    )  # fmt: skip


def _as_heads(x_TKH: torch.Tensor) -> torch.Tensor:
    return as_heads(x_TKH if x_TKH.dtype is torch.float32 else x_TKH.float(), "keys or values")
