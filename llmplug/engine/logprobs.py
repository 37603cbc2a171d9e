"""Log-probabilities of the model's raw distribution, for the rows that ask.

Legend: R rows, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llmplug.types import TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Sequence

IMPOSSIBLE = -9999.0  # stands for -inf, which JSON cannot say


def compute_logprobs(
    logits_RV: torch.Tensor, token_ids: Sequence[int], num_top: Sequence[int]
) -> list[TokenLogprob]:
    """Rate one token a row.

    Args:
        logits_RV: float32, as the model gave them.
        token_ids: the token of each row.
        num_top: alternatives that each row asks for, >= 0.

    Returns:
        One a row; equal tokens are listed by id, the lowest first.
    """
    logprobs_RV = torch.log_softmax(logits_RV, dim=-1)
    ids_R1 = torch.tensor(token_ids, device=logits_RV.device)[:, None]
    chosen_R1 = logprobs_RV.gather(1, ids_R1)
    ranks = ((logprobs_RV > chosen_R1).sum(dim=1) + 1).tolist()
    chosen = chosen_R1[:, 0].tolist()
    return [
        TokenLogprob(
            token_id=token_ids[row],
            logprob=_clamp(chosen[row]),
            rank=ranks[row],
            top=_list_top(logprobs_RV[row], count) if count else [],
        )
        for row, count in enumerate(num_top)
    ]


def _list_top(logprobs_V: torch.Tensor, count: int) -> list[tuple[int, float]]:
    """List the most probable tokens; torch.topk alone does not say which of equal ones it takes."""
    threshold = logprobs_V.topk(min(count, len(logprobs_V))).values[-1]
    ids = (logprobs_V >= threshold).nonzero()[:, 0]
    values = logprobs_V[ids]
    order = values.argsort(descending=True, stable=True)[:count]
    pairs = zip(ids[order].tolist(), values[order].tolist(), strict=True)
    return [(token_id, _clamp(value)) for token_id, value in pairs]


def _clamp(logprob: float) -> float:
    """Make it finite; NaN fails the comparison and becomes impossible too."""
    return logprob if logprob > IMPOSSIBLE else IMPOSSIBLE
