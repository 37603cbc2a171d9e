"""Attention within whole texts, packed without padding, in both directions: the torch reference.

Legend: T packed tokens, N texts, H heads, W head width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

from llmplug.ops.table import Op

# float32: softmax and its sum in another order. 16 bit: one rounding of weights and of the result.
_TOLERANCES = {"float32": (1e-5, 1e-5), "bfloat16": (2e-2, 1e-2), "float16": (4e-3, 2e-3)}


class TextStarts(tuple[int, ...]):
    """Where each of N texts begins, and T at the end, with what kernels compute of it once.

    Attributes:
        plans: what all layers of a step share, under keys of the kernels' own.
    """

    def __init__(self, starts: Iterable[int]) -> None:
        self.plans: dict[Any, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBatch:
    """Whole texts behind each other, on one device.

    Attributes:
        token_ids_T: int64.
        positions_T: int64, of each token in its own text.
        type_ids_T: int64, which segment of its text a token belongs to; None: all to the first.
        starts: where each of N texts begins, and T at the end; `TextStarts` in the engine.
    """

    token_ids_T: torch.Tensor
    positions_T: torch.Tensor
    type_ids_T: torch.Tensor | None
    starts: Sequence[int]


def text_attention(
    query_THW: torch.Tensor,
    key_THW: torch.Tensor,
    value_THW: torch.Tensor,
    starts: Sequence[int],
    *,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Let every token of a text look at all tokens of that text.

    Args:
        starts: where each of N texts begins, and T at the end. If they are `TextStarts`, a kernel
            may keep there what it would compute again for the next layer.
        scale: of the scores.
        window: tokens further away than this on either side are not seen; None: all are.

    Returns:
        out_THW in the dtype of query_THW: softmax(scale * q k^T) v, text by text.

    Source: https://arxiv.org/abs/1706.03762, section 3.2.1
    """
    out_THW = torch.empty_like(query_THW)
    by_length: dict[int, list[int]] = {}
    for start, end in pairwise(starts):
        if end > start:
            by_length.setdefault(end - start, []).append(start)
    for length, firsts in by_length.items():
        mask_LL = _make_mask(length, window, query_THW.device)
        if len(firsts) == 1:
            where: Any = slice(firsts[0], firsts[0] + length)
        else:  # texts of one length are one batch
            offsets = torch.arange(length, device=query_THW.device)
            where = torch.tensor(firsts, device=query_THW.device)[:, None] + offsets
        shape = (len(firsts), length, *query_THW.shape[1:])
        query, key, value = (
            each[where].view(shape).transpose(1, 2) for each in (query_THW, key_THW, value_THW)
        )
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_LL, scale=scale)
        found = seen.transpose(1, 2)
        out_THW[where] = found[0] if len(firsts) == 1 else found
    return out_THW


def _make_mask(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Whether a token sees another; None: all see all."""
    if window is None or length <= window + 1:
        return None
    places_L = torch.arange(length, device=device)
    mask_LL: torch.Tensor = (places_L[:, None] - places_L).abs() <= window
    return mask_LL


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(22)
    examples: list[dict[str, Any]] = []
    for lengths, num_heads, width, window in [
        ([1], 1, 8, None),
        ([3, 3, 7, 1, 3], 2, 16, None),
        ([70, 33], 3, 32, None),
        ([9, 0, 9, 40], 2, 64, 4),
        ([], 2, 16, None),
    ]:
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length)
        shape = (3, starts[-1], num_heads, width)
        query_THW, key_THW, value_THW = torch.randn(shape, generator=generator).to(device, dtype)
        examples.append({
            "query_THW": query_THW, "key_THW": key_THW, "value_THW": value_THW,
            "starts": starts, "scale": width**-0.5, "window": window,
        })  # fmt: skip
    return examples


TEXT_ATTENTION = Op(
    name="text_attention",
    reference=text_attention,
    tolerances=_TOLERANCES,
    example_inputs=_example_inputs,
)
