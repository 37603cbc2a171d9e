"""`best_of`: more answers are made than shown, and the likeliest of them are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmplug.server.deltas import ChoiceDelta, Usage
    from llmplug.server.schema.reply import JoinedChoice, Reply


class BestOfReply:
    """Shows some of each prompt's choices: those whose tokens have the best mean log-probability.

    All of them were generated, and all count as usage. It is not for streams.
    """

    def __init__(self, reply: Reply, num_shown: int, num_made: int) -> None:
        self._reply = reply
        self._num_shown = num_shown
        self._num_made = num_made

    def opening(self, num_choices: int) -> list[bytes]:
        """As the reply says."""
        return self._reply.opening(num_choices)

    def frames(self, delta: ChoiceDelta) -> list[bytes]:
        """As the reply says."""
        return self._reply.frames(delta)

    def closing(self, usage: Usage) -> list[bytes]:
        """As the reply says."""
        return self._reply.closing(usage)

    def body(self, choices: Sequence[JoinedChoice], usage: Usage) -> dict[str, Any]:
        """The reply in one piece."""
        shown: list[JoinedChoice] = []
        for start in range(0, len(choices), self._num_made):
            made = sorted(choices[start : start + self._num_made], key=_rate, reverse=True)
            shown += made[: self._num_shown]
        for index, choice in enumerate(shown):
            choice.index = index
        return self._reply.body(shown, usage)


def _rate(choice: JoinedChoice) -> float:
    """Return the mean log-probability of the tokens; of none, as good as can be."""
    logprobs = [token.logprob for token in choice.tokens if token.logprob is not None]
    return sum(logprobs) / len(logprobs) if logprobs else 0.0
