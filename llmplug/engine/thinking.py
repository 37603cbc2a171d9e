"""Keep a sequence within its thinking budget: when it is used up, the end marker is all it may say.

The marker is forced by forbidding every other token, like a grammar does, so that samplers, seeds,
log-probabilities and grammars work as ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmplug.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from llmplug.engine.sequence import Sequence
    from llmplug.types import ThinkingBudget

# What a limit on the whole answer leaves for what comes after the thinking; half of a small one.
ANSWER_TOKENS = 64


class ThinkingClock:
    """Counts the tokens that one sequence thinks for."""

    __slots__ = ("_budget", "_is_open", "_num_left")

    def __init__(self, budget: ThinkingBudget) -> None:
        self._budget = budget
        self._num_left = budget.max_tokens
        self._is_open = budget.is_open

    @property
    def forced_id(self) -> int | None:
        """The one token that may come next; None: any."""
        return self._budget.end_ids[0] if self._is_open and self._num_left <= 0 else None

    def take(self, token_id: int) -> None:
        """Note a chosen token."""
        if token_id in self._budget.end_ids:
            self._is_open = False
        elif self._is_open:
            self._num_left -= 1
        elif token_id in self._budget.start_ids:
            self._is_open = True


def force_ends(logits_SV: torch.Tensor, sequences: Iterable[Sequence]) -> None:
    """Leave nothing but the end marker to rows whose budget is used up.

    A grammar may forbid it for a few tokens yet, as in the middle of a character.
    """
    for row, sequence in enumerate(sequences):
        token_id = sequence.thinking.forced_id if sequence.thinking is not None else None
        if token_id is None:
            continue
        logit = float(logits_SV[row, token_id])
        if logit > float("-inf"):
            logits_SV[row] = float("-inf")
            logits_SV[row, token_id] = logit


def fit_budget(budget: ThinkingBudget, max_tokens: int, vocab_size: int) -> ThinkingBudget:
    """Check a budget, and cut it so that an answer of `max_tokens` has room for more.

    Raises:
        InvalidRequest: it is negative, or names a token that does not exist.
    """
    ids = (*budget.start_ids, *budget.end_ids)
    if budget.max_tokens < 0:
        raise InvalidRequest(
            "thinking_token_budget must not be negative.", param="thinking_token_budget"
        )
    if not budget.end_ids or not all(0 <= token_id < vocab_size for token_id in ids):
        raise InvalidRequest("A thinking budget needs tokens that exist.", param="thinking")
    room = max_tokens - 1 - min(ANSWER_TOKENS, max_tokens // 2)  # 1: the end marker
    return msgspec.structs.replace(budget, max_tokens=max(0, min(budget.max_tokens, room)))
