"""Paged attention: the torch reference. The kernel owns the layout of the cache.

Legend: T packed tokens, S sequences in this step, N query heads, K key/value heads, H head width,
P page size (tokens), M pages a sequence may have, C cached tokens of a sequence, G sequences of
one group, Q new tokens of one sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

# Decodes are grouped by their own length rounded up to this many tokens, so that the shapes that a
# sequence is computed in depend on itself alone. Smaller: more groups; larger: more padding.
_GROUP_TOKENS = 64
# Gathered keys and values of one group, at most (or one sequence): they stay in the cache between
# the gather and its use. Measured with 32 decodes of 256 tokens on 1 core of an EPYC Zen 3.
_GROUP_BYTES = 4 << 20
_LARGEST_FP8 = 448.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBatch:
    """Which packed token belongs to which sequence, and where its keys and values are kept.

    Sequences with exactly one new token that end their prompt (decode) come first, then chunks of
    prompts (prefill). Tuples are host copies of the tensors, for kernels that loop on the host.
    Decodes may end with padding: a row of no tokens, slot -1, whose attention is 0.
    """

    num_decodes: int  # of the S sequences, those with one new token, packed first
    query_lens: tuple[int, ...]  # new tokens of each sequence in this step, >= 1
    # Tokens in the cache of each sequence, this step's included; 0: padding.
    cached_lens: tuple[int, ...]
    query_starts_S1: torch.Tensor  # int32: offset into T of each sequence's first token, then T
    cached_lens_S: torch.Tensor  # int32
    block_table_SM: torch.Tensor  # int32: page ids in token order; -1 after the last
    slots_T: torch.Tensor  # int64: page * P + offset in the page of each new token; -1: padding
    # What a kernel computes once for all layers of the step, under keys of its own.
    plans: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCache:
    """One layer's keys and values, in the layout of the kernel that allocated it.

    A cache of 8-bit floats may have scales: it holds what was stored divided by them. They are
    plain numbers, the same as long as the cache lives, so that graphs may keep them.
    """

    key: torch.Tensor
    value: torch.Tensor
    page_size: int
    key_scale: float = 1.0  # > 0; 1 in caches of other numbers
    value_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class _Group:
    """Decodes that are attended by one call."""

    tokens_G: torch.Tensor  # int64: which of T
    rows: torch.Tensor  # int64, flat (G, K, C); padding repeats a sequence's own last token
    mask_G11C: torch.Tensor  # float32, added to scores
    key: torch.Tensor  # (G * K * C, H) to gather into: all layers share it
    value: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Chunk:
    """New tokens of one sequence, on top of what is cached of it."""

    tokens: slice  # which of T
    rows: torch.Tensor  # int64, flat (K, C)
    mask_QC: torch.Tensor | None  # bool; None: causal over a fresh prompt


@dataclass(frozen=True, slots=True)
class _Scores:
    """What becomes of q @ k on its way to the weights of the values."""

    scale: float
    soft_cap: float | None
    sinks_N: torch.Tensor | None

    def cap(self, scores: torch.Tensor) -> torch.Tensor:
        """Apply the soft cap, if there is one."""
        if self.soft_cap is None:
            return scores
        return (scores / self.soft_cap).tanh_().mul_(self.soft_cap)

    def weigh(self, scores_GKqC: torch.Tensor) -> torch.Tensor:
        """Return the softmax over C; a sink is one more token, which is cut off again.

        Args:
            scores_GKqC: q ends with the query heads of one key head, so that K and the last of
                its dimensions are the heads N.
        """
        if self.sinks_N is None:
            return scores_GKqC.softmax(-1)
        num_kv_heads = scores_GKqC.shape[1]
        sinks_1Kq1 = self.sinks_N.float().view(1, num_kv_heads, -1, 1)
        sinks_GKq1 = sinks_1Kq1.expand(*scores_GKqC.shape[:-1], 1)
        return torch.cat((scores_GKqC, sinks_GKq1), -1).softmax(-1)[..., :-1]


class PagedAttention:
    """Reference kernel of the op `attention`: pages of [pages, K, P, H], gathered and attended."""

    # Whether decodes depend on the host's `cached_lens` as bounds only, so that what is launched
    # for one step can be launched again for others, whose lengths the tensors have.
    is_replayable = False

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
        shape = (num_pages, num_kv_heads, page_size, head_width)
        return KVCache(
            key=torch.zeros(shape, device=device, dtype=dtype),
            value=torch.zeros(shape, device=device, dtype=dtype),
            page_size=page_size,
        )

    def store(
        self, cache: KVCache, k_TKH: torch.Tensor, v_TKH: torch.Tensor, slots_T: torch.Tensor
    ) -> None:
        """Write new keys (already rotated) and values into their slots; -1 is no slot.

        In a cache of 8-bit floats numbers beyond 448 times the scale become that; NaN stays NaN.
        They are multiplied by 1 / scale, rounded to float32, so that all kernels store the same.
        """
        if len(slots_T) and int(slots_T.min()) < 0:
            is_there_T = slots_T >= 0
            k_TKH, v_TKH, slots_T = k_TKH[is_there_T], v_TKH[is_there_T], slots_T[is_there_T]
        pages_T, offsets_T = slots_T // cache.page_size, slots_T % cache.page_size
        for kept, scale, x_TKH in (
            (cache.key, cache.key_scale, k_TKH), (cache.value, cache.value_scale, v_TKH)
        ):  # fmt: skip
            if kept.dtype is torch.float8_e4m3fn:
                scaled_TKH = x_TKH.float() * (1 / scale)
                fp8_TKH = scaled_TKH.clamp(-_LARGEST_FP8, _LARGEST_FP8).to(kept.dtype)
                kept.view(torch.uint8)[pages_T, :, offsets_T] = fp8_TKH.view(torch.uint8)
            else:
                kept[pages_T, :, offsets_T] = x_TKH.to(kept.dtype)

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

        No result depends on another sequence of the batch, nor on what a page holds after the
        sequence's last token.

        Args:
            scale: multiplies q @ k; usually head width ** -0.5.
            window: tokens a query sees, itself included; None: all before it.
            soft_cap: scores become soft_cap * tanh(score / soft_cap), > 0; None: as they are.
            sinks_N: a score of each head that takes its share of the softmax and adds nothing.

        Returns:
            out_TNH in the dtype of q_TNH.

        Source: https://arxiv.org/abs/2309.06180, section 4.3 (pages);
        https://arxiv.org/abs/2408.00118, section 2 (soft cap);
        https://arxiv.org/abs/2508.10925, section 2.2 (sinks)
        """
        key = ("reference", cache.key.shape[1:], cache.key.dtype, window)
        parts = batch.plans.get(key)
        if parts is None:
            parts = batch.plans[key] = _plan(batch, cache, window)
        make = torch.zeros if 0 in batch.cached_lens else torch.empty
        out_TNH = make(q_TNH.shape, device=q_TNH.device, dtype=q_TNH.dtype)
        scores = _Scores(scale * cache.key_scale, soft_cap, sinks_N)
        for part in parts:
            if isinstance(part, _Group):
                out_TNH[part.tokens_G] = _attend_group(q_TNH[part.tokens_G], cache, part, scores)
            else:
                out_TNH[part.tokens] = _attend_chunk(q_TNH[part.tokens], cache, part, scores)
        return out_TNH


def _attend_group(
    q_GNH: torch.Tensor, cache: KVCache, group: _Group, scores: _Scores
) -> torch.Tensor:
    """Attend one token of each sequence, in float32.

    The query heads that share a key head are the rows of one matrix. Batched products, unlike
    torch's fused attention, give a sequence bitwise the same result in a batch of any size.
    """
    num_sequences, num_heads, width = q_GNH.shape
    num_kv_heads = cache.key.shape[1]
    # One matrix per sequence and key head: B = G * K.
    shape_BCH = (num_sequences * num_kv_heads, -1, width)
    for kept, gathered in ((cache.key, group.key), (cache.value, group.value)):
        torch.index_select(_as_rows(kept), 0, group.rows, out=_as_bytes_of_fp8(gathered))
    q_BqH = (q_GNH.float() * scores.scale).reshape(shape_BCH)
    scores_BqC = torch.bmm(q_BqH, group.key.float().view(shape_BCH).transpose(1, 2))
    scores_GKqC = scores.cap(scores_BqC.view(num_sequences, num_kv_heads, *scores_BqC.shape[1:]))
    scores_GKqC.add_(group.mask_G11C)
    weights_BqC = scores.weigh(scores_GKqC).flatten(0, 1)
    out_BqH = torch.bmm(weights_BqC, group.value.float().view(shape_BCH)) * cache.value_scale
    return out_BqH.view(num_sequences, num_heads, width).to(q_GNH.dtype)


def _attend_chunk(
    q_QNH: torch.Tensor, cache: KVCache, chunk: _Chunk, scores: _Scores
) -> torch.Tensor:
    """Attend the last Q of C tokens of one sequence to all C."""
    num_kv_heads, _, width = cache.key.shape[1:]
    key, value = (
        _as_rows(kept).index_select(0, chunk.rows).view(kept.dtype).view(num_kv_heads, -1, width)
        for kept in (cache.key, cache.value)
    )
    if scores.soft_cap is not None or scores.sinks_N is not None:
        out_QNH = _attend_chunk_in_parts(q_QNH, key.float(), value.float(), chunk, scores)
        return out_QNH * cache.value_scale
    out_1NQH = F.scaled_dot_product_attention(
        q_QNH.transpose(0, 1)[None],
        key[None].to(q_QNH.dtype),
        value[None].to(q_QNH.dtype),
        attn_mask=chunk.mask_QC,
        is_causal=chunk.mask_QC is None,
        scale=scores.scale,
        enable_gqa=True,
    )
    return out_1NQH[0].transpose(0, 1) * cache.value_scale


def _attend_chunk_in_parts(
    q_QNH: torch.Tensor,
    key_KCH: torch.Tensor,
    value_KCH: torch.Tensor,
    chunk: _Chunk,
    scores: _Scores,
) -> torch.Tensor:
    """Attend as torch's fused attention cannot, in float32."""
    num_queries, num_heads, width = q_QNH.shape
    num_kv_heads, num_cached = key_KCH.shape[:2]
    q_QKqH = (q_QNH.float() * scores.scale).view(num_queries, num_kv_heads, -1, width)
    scores_QKqC = scores.cap(q_QKqH @ key_KCH.transpose(1, 2))
    mask_QC = chunk.mask_QC
    if mask_QC is None:  # a fresh prompt: as many queries as tokens
        ones = torch.ones(num_queries, num_cached, dtype=torch.bool, device=q_QNH.device)
        mask_QC = ones.tril()
    scores_QKqC.masked_fill_(~mask_QC[:, None, None], float("-inf"))
    out_QKqH = scores.weigh(scores_QKqC) @ value_KCH
    return out_QKqH.view(num_queries, num_heads, width).to(q_QNH.dtype)


def _as_rows(kept: torch.Tensor) -> torch.Tensor:
    """See a cache as rows of one head and one token; 8-bit floats as bytes, to be gathered."""
    return _as_bytes_of_fp8(kept.view(-1, kept.shape[-1]))


def _as_bytes_of_fp8(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.uint8) if tensor.dtype is torch.float8_e4m3fn else tensor


def _plan(batch: AttentionBatch, cache: KVCache, window: int | None) -> list[_Group | _Chunk]:
    """Compute what all layers of a step share: groups, gather indices and masks."""
    groups: dict[int, list[int]] = {}
    for s, length in enumerate(batch.cached_lens[: batch.num_decodes]):
        if length == 0:
            continue
        seen = length if window is None else min(length, window)
        groups.setdefault(-(-seen // _GROUP_TOKENS) * _GROUP_TOKENS, []).append(s)
    parts: list[_Group | _Chunk] = []
    for num_tokens, members in groups.items():
        bytes_each = 2 * cache.key[0, :, 0].nbytes * num_tokens
        most = max(1, _GROUP_BYTES // bytes_each)
        for i in range(0, len(members), most):
            parts.append(_plan_group(batch, cache, members[i : i + most], num_tokens, window))
    start = batch.num_decodes
    for s in range(batch.num_decodes, len(batch.query_lens)):
        parts.append(_plan_chunk(batch, cache, s, start, window))
        start += batch.query_lens[s]
    return parts


def _plan_group(
    batch: AttentionBatch,
    cache: KVCache,
    members: list[int],
    num_tokens: int,
    window: int | None,
) -> _Group:
    """Plan the last `num_tokens` tokens of each member, or all it has and padding."""
    members_G = torch.tensor(members, device=batch.block_table_SM.device)
    last_G1 = batch.cached_lens_S[members_G].long()[:, None] - 1
    first_G1 = torch.zeros_like(last_G1) if window is None else (last_G1 + 1 - window).clamp(min=0)
    tokens_GC = first_G1 + torch.arange(num_tokens, device=members_G.device)
    mask_GC = torch.zeros(tokens_GC.shape, device=members_G.device)
    mask_GC.masked_fill_(tokens_GC > last_G1, float("-inf"))
    tokens_GC = torch.minimum(tokens_GC, last_G1)
    rows = _find_rows(batch.block_table_SM[members_G], tokens_GC, cache)
    buffer_shape = (len(rows), cache.key.shape[-1])
    return _Group(
        tokens_G=members_G,
        rows=rows,
        mask_G11C=mask_GC[:, None, None, :],
        key=cache.key.new_empty(buffer_shape),
        value=cache.value.new_empty(buffer_shape),
    )


def _plan_chunk(
    batch: AttentionBatch, cache: KVCache, sequence: int, start: int, window: int | None
) -> _Chunk:
    """Plan the tokens that any query of the chunk sees."""
    num_queries, num_cached = batch.query_lens[sequence], batch.cached_lens[sequence]
    device = batch.block_table_SM.device
    num_past = num_cached - num_queries
    first = 0 if window is None else max(num_past + 1 - window, 0)  # the first query's first token
    tokens_C = torch.arange(first, num_cached, device=device)
    mask_QC = None
    if num_past > 0 or (window is not None and window < num_cached):
        queries_Q1 = torch.arange(num_past, num_cached, device=device)[:, None]
        mask_QC = tokens_C <= queries_Q1
        if window is not None:
            mask_QC &= tokens_C > queries_Q1 - window
    return _Chunk(
        tokens=slice(start, start + num_queries),
        rows=_find_rows(batch.block_table_SM[sequence][None], tokens_C[None], cache),
        mask_QC=mask_QC,
    )


def _find_rows(table_GM: torch.Tensor, tokens_GC: torch.Tensor, cache: KVCache) -> torch.Tensor:
    """Find tokens in the cache seen as rows of one head and one token each: flat (G, K, C)."""
    num_kv_heads, page_size = cache.key.shape[1:3]
    pages_G1C = table_GM.long().gather(1, tokens_GC // page_size)[:, None]
    heads_K1 = torch.arange(num_kv_heads, device=table_GM.device)[:, None]
    offsets_G1C = (tokens_GC % page_size)[:, None]
    return ((pages_G1C * num_kv_heads + heads_K1) * page_size + offsets_G1C).flatten()
