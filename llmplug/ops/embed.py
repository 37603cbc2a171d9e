"""Token embedding: the torch reference.

Legend: T packed tokens, V vocabulary, D model width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from llmplug.ops.table import Op


def embed(token_ids_T: torch.Tensor, table_VD: torch.Tensor) -> torch.Tensor:
    """Look up the row of each token.

    Args:
        token_ids_T: int64, each in [0, V); the engine checks that before.

    Returns:
        x_TD in the dtype of the table; a copy, which the caller may write to.
    """
    return F.embedding(token_ids_T, table_VD)


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(4)
    examples = []
    for num_tokens, vocab_size, width in [(1, 1, 1), (5, 7, 3), (33, 1000, 576), (0, 10, 8)]:
        ids_T = torch.randint(vocab_size, (num_tokens,), generator=generator)
        table_VD = torch.randn(vocab_size, width, generator=generator)
        examples.append({"token_ids_T": ids_T.to(device), "table_VD": table_VD.to(device, dtype)})
    return examples


EMBED = Op(
    name="embed",
    reference=embed,
    tolerances={"float32": (0, 0), "bfloat16": (0, 0), "float16": (0, 0)},  # a copy is exact
    example_inputs=_example_inputs,
)
