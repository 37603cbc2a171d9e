"""What a beam offers: its likeliest next tokens, found where a sampler would choose one.

Legend: S rows of this step, R rows of beams, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from llmplug.specs import SamplerRow, SamplerSpec

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    import torch

    from llmplug.engine.sequence import Sequence


class CandidateParams(BaseModel):
    """How many a beam offers."""

    num_candidates: int = 0


def rate_beams(logits_SV: torch.Tensor, sequences: Items[Sequence]) -> None:
    """Turn the logits of beams into log-probabilities, before anything is added or forbidden.

    What is forbidden takes no part of the probability, so that beams stay comparable; and biases
    change log-probabilities, as in transformers.
    """
    rows = [row for row, sequence in enumerate(sequences) if sequence.beams is not None]
    if rows:
        logits_SV[rows] = logits_SV[rows].log_softmax(dim=-1)


class BeamCandidates:
    """Leaves each row its candidates as its state; the token that it returns is the likeliest."""

    def choose(self, logits_RV: torch.Tensor, rows: Items[SamplerRow]) -> torch.Tensor:
        """Return ids_R, int64."""
        counts = [min(row.params.num_candidates, logits_RV.shape[1]) for row in rows]
        best = logits_RV.topk(max(counts), dim=-1)
        values, ids = best.values.tolist(), best.indices.tolist()
        for row, count, row_values, row_ids in zip(rows, counts, values, ids, strict=True):
            row.next_state = [
                (token_id, value)
                for token_id, value in zip(row_ids[:count], row_values[:count], strict=True)
                if value > float("-inf")
            ]
        return best.indices[:, 0]


BEAM_CANDIDATES = SamplerSpec(
    name="beam candidates",
    stage="choose",
    params=CandidateParams,
    is_active=lambda params: False,  # the engine puts it in the place of a choice
    make=lambda vocab_size, device, ops: BeamCandidates(),
)
