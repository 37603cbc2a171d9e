"""Beam search: which beams go on, and which answers are done. Touches no tensor and no page.

At every step each beam offers its likeliest next tokens. Of all these, the best that do not end
become the beams; those among the best `width` that end are answers, rated by the sum of their
log-probabilities / length ^ length_penalty, of which the best `width` are kept.

Source: https://arxiv.org/abs/1702.01806 for the method; how many candidates are looked at, what
ends the search and what `early_stopping` means are as in transformers' `generate(num_beams=...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llmplug.types import BeamParams, FinishReason

Candidate = tuple[int, float]  # token id, log-probability


class Branch(NamedTuple):
    """A beam one token longer."""

    parent: int  # place of the beam that it comes from
    token_id: int
    score: float  # sum of log-probabilities


@dataclass(frozen=True, slots=True)
class Answer:
    """A beam that has ended."""

    output_ids: list[int]
    score: float  # with the length penalty
    reason: FinishReason


# (output so far, next token) -> why that is the end, or None
FindEnd = Callable[[Sequence[int], int], FinishReason | None]


class BeamSearch:
    """The search for the answers to one prompt."""

    def __init__(
        self, params: BeamParams, max_tokens: int, num_stop_ids: int, find_end: FindEnd
    ) -> None:
        """Begin with one beam that has no output.

        Args:
            max_tokens: of an answer.
            num_stop_ids: tokens that end an answer; so many candidates more are looked at.
            find_end: says which beams have ended.
        """
        self.answers: list[Answer] = []  # the best first
        self.outputs: list[list[int]] = [[]]  # of the beams, the best first
        self.num_candidates = max(2, 1 + num_stop_ids) * params.width
        self._params = params
        self._max_tokens = max_tokens
        self._find_end = find_end
        self._scores = [0.0]

    def advance(self, candidates: Sequence[Sequence[Candidate]]) -> list[Branch]:
        """Take one step; return the beams that go on, the best first. None: the search is over.

        Args:
            candidates: of each beam, its `num_candidates` likeliest next tokens.
        """
        branches = [
            Branch(parent, token_id, self._scores[parent] + logprob)
            for parent, offered in enumerate(candidates)
            for token_id, logprob in offered
        ]
        branches.sort(key=lambda branch: (-branch.score, branch.parent, branch.token_id))
        going_on: list[Branch] = []
        takes_answers = not (self._is_full and self._params.early_stopping is True)
        for rank, branch in enumerate(branches[: self.num_candidates]):
            reason = self._find_end(self.outputs[branch.parent], branch.token_id)
            if reason is None:
                going_on.append(branch)
            elif rank < self._params.width and takes_answers:
                self._keep(branch, reason)
        del going_on[self._params.width :]
        self.outputs = [[*self.outputs[branch.parent], branch.token_id] for branch in going_on]
        self._scores = [branch.score for branch in going_on]
        if not going_on or self._is_over():
            self.outputs = []
        return going_on if self.outputs else []

    def _keep(self, branch: Branch, reason: FinishReason) -> None:
        """Add an answer, if it is among the best."""
        output_ids = [*self.outputs[branch.parent], branch.token_id]
        score = branch.score / len(output_ids) ** self._params.length_penalty
        self.answers.append(Answer(output_ids, score, reason))
        self.answers.sort(key=lambda answer: -answer.score)  # stable: of equal ones the first stays
        del self.answers[self._params.width :]

    @property
    def _is_full(self) -> bool:
        return len(self.answers) == self._params.width

    def _is_over(self) -> bool:
        """Whether no beam can be expected to become a better answer."""
        if not self._is_full:
            return False
        if self._params.early_stopping is True:
            return True
        length = len(self.outputs[0])
        if self._params.early_stopping == "never" and self._params.length_penalty > 0:
            length = self._max_tokens
        best_score: float = self._scores[0] / length**self._params.length_penalty
        return best_score <= self.answers[-1].score
