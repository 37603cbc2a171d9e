"""Paged attention: the torch reference. The kernel owns the layout of the cache.

Legend: T packed tokens, S sequences in this step, N query heads, K key/value heads, H head width,
P page size (tokens), M pages a sequence may have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBatch:
    """Which packed token belongs to which sequence, and where its keys and values are kept.

    Sequences with exactly one new token that end their prompt (decode) come first, then chunks of
    prompts (prefill). Tuples are host copies of the tensors, for kernels that loop on the host.
    """

    num_decodes: int  # of the S sequences, those with one new token, packed first
    query_lens: tuple[int, ...]  # new tokens of each sequence in this step, >= 1
    cached_lens: tuple[int, ...]  # tokens in the cache of each sequence, this step's included
    query_starts_S1: torch.Tensor  # int32: offset into T of each sequence's first token, then T
    cached_lens_S: torch.Tensor  # int32
    block_table_SM: torch.Tensor  # int32: page ids in token order; -1 after the last
    slots_T: torch.Tensor  # int64: page * P + offset in the page of each new token


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCache:
    """One layer's keys and values, in the layout of the kernel that allocated it."""

    key: torch.Tensor
    value: torch.Tensor
    page_size: int


class PagedAttention:
    """Reference kernel of the op `attention`: pages of [pages, P, K, H], gathered and attended."""

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
        shape = (num_pages, page_size, num_kv_heads, head_width)
        return KVCache(
            key=torch.zeros(shape, device=device, dtype=dtype),
            value=torch.zeros(shape, device=device, dtype=dtype),
            page_size=page_size,
        )

    def store(
        self, cache: KVCache, k_TKH: torch.Tensor, v_TKH: torch.Tensor, slots_T: torch.Tensor
    ) -> None:
        """Write new keys (already rotated) and values into their slots."""
        cache.key.flatten(0, 1).index_copy_(0, slots_T, k_TKH.to(cache.key.dtype))
        cache.value.flatten(0, 1).index_copy_(0, slots_T, v_TKH.to(cache.value.dtype))

    def attend(
        self,
        q_TNH: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
        *,
        scale: float,
        window: int | None = None,
    ) -> torch.Tensor:
        """Attend each new token to the cached tokens of its own sequence, causally.

        Args:
            scale: multiplies q @ k; usually head width ** -0.5.
            window: tokens a query sees, itself included; None: all before it.
        Returns:
            out_TNH in the dtype of q_TNH.
        Source: https://arxiv.org/abs/2309.06180, section 4.3
        """
        out_TNH = torch.empty_like(q_TNH)
        start = 0
        for s, (query_len, cached_len) in enumerate(
            zip(batch.query_lens, batch.cached_lens, strict=True)
        ):
            num_pages = -(-cached_len // cache.page_size)
            pages = batch.block_table_SM[s, :num_pages]
            k_CKH = cache.key[pages].flatten(0, 1)[:cached_len]
            v_CKH = cache.value[pages].flatten(0, 1)[:cached_len]
            out_TNH[start : start + query_len] = _attend_sequence(
                q_TNH[start : start + query_len], k_CKH, v_CKH, scale, window
            )
            start += query_len
        return out_TNH


def _attend_sequence(
    q_QNH: torch.Tensor,
    k_CKH: torch.Tensor,
    v_CKH: torch.Tensor,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Attend the last Q of C tokens of one sequence to all C."""
    num_queries, num_cached = q_QNH.shape[0], k_CKH.shape[0]
    mask = None
    if num_queries > 1 or (window is not None and window < num_cached):
        query = torch.arange(num_cached - num_queries, num_cached, device=q_QNH.device)[:, None]
        key = torch.arange(num_cached, device=q_QNH.device)[None, :]
        mask = key <= query
        if window is not None:
            mask &= key > query - window
    out_NQH = F.scaled_dot_product_attention(
        q_QNH.transpose(0, 1)[None],
        k_CKH.to(q_QNH.dtype).transpose(0, 1)[None],
        v_CKH.to(q_QNH.dtype).transpose(0, 1)[None],
        attn_mask=mask,
        scale=scale,
        enable_gqa=True,
    )[0]
    return out_NQH.transpose(0, 1)
