"""Penalties of tokens that a row has seen, by a sparse list: the torch reference.

Legend: S rows (sequences), V vocabulary, E entries: tokens of rows, each once.
"""

from __future__ import annotations

from typing import Any

import torch

from llmplug.ops.table import Op


def penalise_tokens(
    logits_SV: torch.Tensor,
    rows_E: torch.Tensor,
    ids_E: torch.Tensor,
    counts_E: torch.Tensor,
    penalties_S3: torch.Tensor,
) -> torch.Tensor:
    """Make seen tokens less probable: the repetition penalty, then presence and frequency.

    Args:
        logits_SV: float32; edited.
        rows_E: int64; an entry whose row or id does not exist is skipped, as padding is.
        ids_E: int64; a pair of row and id comes once.
        counts_E: int64; how often the row has generated the token; 0: it is in the prompt alone.
        penalties_S3: float32: repetition (divides a positive logit, multiplies another; 1 is
            none), presence (subtracted from generated tokens), frequency (times the count).

    Returns:
        logits_SV.

    Source: https://arxiv.org/abs/1909.05858, section 4.1 (repetition); OpenAI's
    `presence_penalty` and `frequency_penalty`
    """
    num_rows, size = logits_SV.shape
    is_there_E = (rows_E >= 0) & (rows_E < num_rows) & (ids_E >= 0) & (ids_E < size)
    rows_E, ids_E, counts_E = (x[is_there_E] for x in (rows_E, ids_E, counts_E))
    repetition_E, presence_E, frequency_E = penalties_S3[rows_E].unbind(1)
    logits_E = logits_SV[rows_E, ids_E]
    logits_E = torch.where(logits_E > 0, logits_E / repetition_E, logits_E * repetition_E)
    logits_SV[rows_E, ids_E] = logits_E - presence_E * (counts_E > 0) - frequency_E * counts_E
    return logits_SV


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Logits are float32 whatever the model's dtype."""
    generator = torch.Generator().manual_seed(13)
    examples = []
    for num_rows, size, num_entries in [
        (1, 1, 1),
        (3, 70, 20),
        (2, 900, 1500),
        (3, 9, 0),
        (0, 9, 2),
    ]:
        pairs_E = torch.randperm(num_rows * size, generator=generator)[:num_entries]
        padding = torch.tensor([[-1, 3, 1], [0, size, 1], [0, -1, 2], [num_rows, 0, 1]])
        counts_E = torch.randint(0, 4, pairs_E.shape, generator=generator)
        entries_E3 = torch.stack((pairs_E // size, pairs_E % size, counts_E), 1)
        entries_E3 = torch.cat((entries_E3, padding))
        logits_SV = torch.randn(num_rows, size, generator=generator) * 5
        logits_SV[:, :1] = float("-inf")
        examples.append({
            "logits_SV": logits_SV.to(device),
            "rows_E": entries_E3[:, 0].to(device),
            "ids_E": entries_E3[:, 1].to(device),
            "counts_E": entries_E3[:, 2].to(device),
            "penalties_S3": (torch.rand(num_rows, 3, generator=generator) + 0.5).to(device),
        })  # fmt: skip
    return examples


PENALISE_TOKENS = Op(
    name="penalise_tokens",
    reference=penalise_tokens,
    # One division or product, two subtractions that a fused multiply-add rounds once less.
    tolerances={"float32": (1e-5, 1e-6), "bfloat16": (1e-5, 1e-6), "float16": (1e-5, 1e-6)},
    example_inputs=_example_inputs,
)
