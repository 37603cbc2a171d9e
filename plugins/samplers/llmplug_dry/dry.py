"""DRY: of a token that prolongs a repetition, logit -= multiplier * base ^ (length - allowed).

The end of the text so far, `length` tokens of it, stood somewhere before; a token that followed
there would prolong the repetition. Of several places the longest counts. Neither those tokens nor
the one that follows may be sequence breakers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from llmplug import SamplerRow
    from llmplug.grammar import Vocabulary

# Longer repetitions count as this long, as the source has it: the power must stay finite.
_MAX_LENGTH = 50
_MAX_PENALTY = 1e30  # far below what float32 holds


class Dry:
    """Finds repetitions row by row."""

    def __init__(self, read_vocabulary: Callable[[], Vocabulary]) -> None:
        self._read_vocabulary = read_vocabulary
        self._find_breakers = lru_cache(maxsize=64)(self._scan_vocabulary)

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Subtract each row's penalties."""
        for place, row in enumerate(rows):
            params = row.params
            ids_T = np.fromiter(row.seen_ids(), dtype=np.int64)
            if params.dry_penalty_last_n > 0:
                ids_T = ids_T[-params.dry_penalty_last_n :]
            lengths = find_repetitions(ids_T, self._find_breakers(params.dry_sequence_breakers))
            penalties = {
                token_id: min(
                    params.dry_multiplier * params.dry_base ** (length - params.dry_allowed_length),
                    _MAX_PENALTY,
                )
                for token_id, length in lengths.items()
                if length >= params.dry_allowed_length
            }
            if penalties:
                device = logits_RV.device
                ids = torch.tensor(list(penalties), device=device)
                logits_RV[place, ids] -= torch.tensor(list(penalties.values()), device=device)

    def _scan_vocabulary(self, breakers: tuple[str, ...]) -> NDArray[np.int64]:
        """Return the ids of all tokens whose text holds one of the breakers, ascending."""
        spelled = [breaker.encode() for breaker in breakers]
        token_bytes = self._read_vocabulary().token_bytes if spelled else ()
        return np.array(
            [
                token_id
                for token_id, text in enumerate(token_bytes)
                if any(breaker in text for breaker in spelled)
            ],
            dtype=np.int64,
        )


def find_repetitions(ids_T: NDArray[np.int64], breakers: NDArray[np.int64]) -> dict[int, int]:
    """Return, by token, the length of the longest repetition that it would prolong."""
    lengths: dict[int, int] = {}
    if len(ids_T) < 2 or np.isin(ids_T[-1], breakers):
        return lengths
    # Places where the last token stood before, and the match ends; each falls out where it differs.
    ends = np.flatnonzero(ids_T[:-1] == ids_T[-1])
    ends = ends[~np.isin(ids_T[ends + 1], breakers)]
    length = 1
    while len(ends):
        for token_id in np.unique(ids_T[ends + 1]).tolist():
            lengths[token_id] = length  # longer ones come later
        if length == min(_MAX_LENGTH, len(ids_T) - 1) or np.isin(ids_T[-1 - length], breakers):
            break
        ends = ends[ends >= length]
        ends = ends[ids_T[ends - length] == ids_T[-1 - length]]
        length += 1
    return lengths
