"""Top-k, then top-p of what stays, then min-p, in one op: the torch reference, which sorts.

Legend: S rows (sequences), V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from llmplug.ops.table import Op


def filter_tokens(
    logits_SV: torch.Tensor, top_k_S: torch.Tensor, top_p_S: torch.Tensor, min_p_S: torch.Tensor
) -> torch.Tensor:
    """Forbid what is not among the likeliest tokens; the lowest id of equal ones stays.

    Args:
        logits_SV: float32, already divided by the temperature; edited.
        top_k_S: int64; so many tokens stay; 0 or V: all.
        top_p_S: float32; of these the fewest that hold this share of their probability; 1: all.
        min_p_S: float32; of these the ones at least so probable, compared with the likeliest; 0:
            all.

    Returns:
        logits_SV, in which -inf forbids a token. One always stays.

    Source: https://arxiv.org/abs/1904.09751, section 3.1 (top-p); https://arxiv.org/abs/2407.01082
    (min-p)
    """
    size = logits_SV.shape[1]
    sorted_SV, ids_SV = logits_SV.sort(dim=1, descending=True, stable=True)
    num_kept_S1 = torch.where(top_k_S == 0, size, top_k_S)[:, None]
    is_out_SV = torch.arange(size, device=logits_SV.device) >= num_kept_S1
    probs_SV = sorted_SV.masked_fill(is_out_SV, float("-inf")).softmax(1, dtype=torch.float64)
    # A token stays while those before it hold less than the share.
    before_SV = probs_SV.cumsum(1) - probs_SV
    is_out_SV |= (before_SV >= top_p_S[:, None]) & (top_p_S < 1)[:, None]
    is_out_SV |= sorted_SV < sorted_SV[:, :1] + min_p_S.log()[:, None]
    is_out_SV[:, :1] = False
    logits_SV.scatter_(1, ids_SV, sorted_SV.masked_fill_(is_out_SV, float("-inf")))
    return logits_SV


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Logits are float32 whatever the model's dtype."""
    generator = torch.Generator().manual_seed(12)
    random = torch.randn(4, 300, generator=generator) * 3
    # Rounded: many are equal, and 0.0 and -0.0 are.
    coarse = torch.randn(4, 50, generator=generator).round()
    forbidden = random[:2].clone()
    forbidden[:, 3:] = float("-inf")
    examples = []
    for logits_SV in (random[:1, :1], random, coarse, forbidden, random[:0]):
        count = len(logits_SV)
        examples.append({
            "logits_SV": logits_SV.clone().to(device),
            "top_k_S": torch.tensor([10, 5, 0, 300])[:count].to(device),
            "top_p_S": torch.tensor([0.77, 1.0, 0.5, 0.3])[:count].to(device),
            "min_p_S": torch.tensor([0.0, 0.03, 0.0, 0.2])[:count].to(device),
        })  # fmt: skip
    return examples


FILTER_TOKENS = Op(
    name="filter_tokens",
    reference=filter_tokens,
    # Logits stay as they are or become -inf; no share of the examples ends within rounding.
    tolerances={"float32": (0, 0), "bfloat16": (0, 0), "float16": (0, 0)},
    example_inputs=_example_inputs,
)
