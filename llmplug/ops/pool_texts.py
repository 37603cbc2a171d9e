"""One vector a text, of the hidden states of its tokens: the torch reference.

Legend: T packed tokens, N texts, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llmplug.ops.table import Op


def pool_texts(
    hidden_TD: torch.Tensor, starts: Sequence[int], *, kind: str, is_normalised: bool
) -> torch.Tensor:
    """Pool each text.

    Args:
        starts: where each of N texts begins, and T at the end; no text is empty.
        kind: `cls`: the first token's state; `last`: the last one's; `mean`, `max`: over all.
        is_normalised: scale the vectors to length 1.

    Returns:
        pooled_ND, float32.

    Source: https://arxiv.org/abs/1908.10084, section 3
    """
    device = hidden_TD.device
    bounds_N1 = torch.tensor(starts, device=device)
    if kind == "cls":
        pooled_ND = hidden_TD[bounds_N1[:-1]].float()
    elif kind == "last":
        pooled_ND = hidden_TD[bounds_N1[1:] - 1].float()
    elif kind in ("mean", "max"):
        lengths_N = bounds_N1.diff()
        # Each text is reduced in its own order: what it is packed with changes nothing.
        pooled_ND = torch.segment_reduce(hidden_TD.float(), kind, lengths=lengths_N, axis=0)
    else:
        raise ValueError(f"no pooling is named {kind!r}")
    if is_normalised:
        pooled_ND = torch.nn.functional.normalize(pooled_ND, dim=-1)
    return pooled_ND


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(23)
    examples: list[dict[str, Any]] = []
    for lengths, width in [([1], 3), ([3, 1, 7], 64), ([33, 2], 384)]:
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length)
        hidden_TD = torch.randn(starts[-1], width, generator=generator).to(device, dtype)
        for kind in ("cls", "last", "mean", "max"):
            examples.append({
                "hidden_TD": hidden_TD, "starts": starts, "kind": kind,
                "is_normalised": kind != "max",
            })  # fmt: skip
    return examples


POOL_TEXTS = Op(
    name="pool_texts",
    reference=pool_texts,
    # Sums over a text in another order.
    tolerances={"float32": (1e-5, 1e-6), "bfloat16": (1e-5, 1e-6), "float16": (1e-5, 1e-6)},
    example_inputs=_example_inputs,
)
