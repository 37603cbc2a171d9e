"""Tokens that a request forbids: all but some (`allowed_token_ids`), and sequences (`bad_words`).

Like a grammar's, these masks come before the samplers and belong to none of them.

Legend: S rows of this step, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llmplug.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmplug.engine.sequence import Sequence
    from llmplug.types import SamplingParams


class TokenBans:
    """What one request forbids."""

    __slots__ = ("_allowed_ids", "_banned_ids", "_is_out_V", "_words_by_end")

    def __init__(self, sampling: SamplingParams) -> None:
        self._allowed_ids = sampling.allowed_token_ids
        words = [word for word in sampling.bad_words if isinstance(word, tuple)]
        self._banned_ids = {word[0] for word in words if len(word) == 1}
        # By the last token but one, so that a step looks at the sequences that can end now.
        self._words_by_end: dict[int, list[tuple[int, ...]]] = {}
        for word in words:
            if len(word) > 1:
                self._words_by_end.setdefault(word[-2], []).append(word)
        self._is_out_V: torch.Tensor | None = None

    def apply(self, logits_V: torch.Tensor, output_ids: list[int]) -> None:
        """Forbid what must not follow an output."""
        if self._allowed_ids:
            logits_V.masked_fill_(self._get_mask(logits_V), float("-inf"))
        banned = self._find_banned(output_ids)
        if banned:
            logits_V[sorted(banned)] = float("-inf")

    def _get_mask(self, logits_V: torch.Tensor) -> torch.Tensor:
        if self._is_out_V is None:
            is_out_V = torch.ones(len(logits_V), dtype=torch.bool)
            is_out_V[list(self._allowed_ids)] = False
            self._is_out_V = is_out_V.to(logits_V.device)
        return self._is_out_V

    def _find_banned(self, output_ids: list[int]) -> set[int]:
        """Return the tokens that would complete a bad word."""
        if not output_ids:
            return self._banned_ids
        return self._banned_ids | {
            word[-1]
            for word in self._words_by_end.get(output_ids[-1], ())
            if tuple(output_ids[1 - len(word) :]) == word[:-1]
        }


def make_bans(sampling: SamplingParams) -> TokenBans | None:
    """Return what a request forbids, or None."""
    if sampling.allowed_token_ids or sampling.bad_words:
        return TokenBans(sampling)
    return None


def explain_error(error: Exception | None, sequence: Sequence) -> Exception | None:
    """Lay it at a request's door, not at the engine's, that no token is left to choose."""
    if error is None or sequence.bans is None:
        return error
    return InvalidRequest(
        "No token is left here: 'allowed_token_ids', 'bad_words' and the form of the answer allow "
        "none together.",
        param="allowed_token_ids",
    )


def forbid_tokens(logits_SV: torch.Tensor, sequences: Iterable[Sequence]) -> None:
    """Forbid each row what its request forbids."""
    for row, sequence in enumerate(sequences):
        if sequence.bans is not None:
            sequence.bans.apply(logits_SV[row], sequence.output_ids)
