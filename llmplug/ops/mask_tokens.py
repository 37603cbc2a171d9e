"""Grammar masks for the rows that have a grammar: the torch reference.

Legend: S rows (sequences), V vocabulary, R rows with a mask, W words of 32 tokens each.
"""

from __future__ import annotations

from typing import Any

import torch

from llmplug.ops.table import Op

_BITS = 32


def mask_tokens(
    logits_SV: torch.Tensor, rows_R: torch.Tensor, allowed_RW: torch.Tensor
) -> torch.Tensor:
    """Forbid all tokens whose bit is not set.

    Args:
        logits_SV: float32; edited.
        rows_R: int64, each once; one that does not exist is skipped, as padding is.
        allowed_RW: int32; token t is bit t % 32 of word t / 32.

    Returns:
        logits_SV, in which -inf forbids a token.
    """
    num_rows, size = logits_SV.shape
    is_there_R = (rows_R >= 0) & (rows_R < num_rows)
    rows_R, allowed_RW = rows_R[is_there_R], allowed_RW[is_there_R]
    bits_RWb = allowed_RW[:, :, None] >> torch.arange(_BITS, device=logits_SV.device) & 1
    is_allowed_RV = bits_RWb.flatten(1)[:, :size].bool()
    logits_SV[rows_R] = logits_SV[rows_R].masked_fill(~is_allowed_RV, float("-inf"))
    return logits_SV


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Logits are float32 whatever the model's dtype."""
    generator = torch.Generator().manual_seed(14)
    examples = []
    for num_rows, size, rows in [
        (1, 1, [0]), (4, 33, [3, 1]), (3, 2000, [0, -1, 2, 3]), (2, 64, []), (0, 5, [0]),
    ]:  # fmt: skip
        words = torch.randint(-(2**31), 2**31, (len(rows), -(-size // _BITS)), generator=generator)
        examples.append({
            "logits_SV": torch.randn(num_rows, size, generator=generator).to(device),
            "rows_R": torch.tensor(rows, dtype=torch.int64, device=device),
            "allowed_RW": words.to(torch.int32).to(device),
        })  # fmt: skip
    return examples


MASK_TOKENS = Op(
    name="mask_tokens",
    reference=mask_tokens,
    # Nothing is computed.
    tolerances={"float32": (0, 0), "bfloat16": (0, 0), "float16": (0, 0)},
    example_inputs=_example_inputs,
)
