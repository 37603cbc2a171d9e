"""The requests that an engine has not finished with: what they gain, and how they end.

Every sequence ends with exactly one delta that has a finish reason, an aborted one too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.errors import to_wire
from llmplug.types import FinishReason, SequenceDelta, TokenLogprob

if TYPE_CHECKING:
    from llmplug.engine.beam_group import BeamGroup
    from llmplug.engine.scheduler import Scheduler
    from llmplug.engine.sequence import Sequence


class OpenRequests:
    """Unfinished sequences by request, and what those that ended add up to."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._sequences: dict[str, list[Sequence]] = {}  # unfinished ones, at least one of each
        self.num_prompt_tokens = 0
        self.num_generated_tokens = 0
        self.num_cached_tokens = 0

    def __bool__(self) -> bool:
        return bool(self._sequences)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._sequences

    def open(self, request_id: str, sequences: list[Sequence]) -> None:
        """Take a request's sequences; the list is kept, and becomes shorter."""
        self._sequences[request_id] = sequences

    def list_sequences(self, request_id: str) -> list[Sequence]:
        """Return a request's unfinished sequences; none of an unknown one, which has ended."""
        return list(self._sequences.get(request_id, ()))

    def is_alive(self, sequence: Sequence) -> bool:
        """Whether a sequence is unfinished."""
        return sequence in self._sequences.get(sequence.request.request_id, ())

    def append(
        self, sequence: Sequence, token_id: int, logprob: TokenLogprob | None
    ) -> SequenceDelta:
        """Add a token to a sequence; its last delta if it ends with that."""
        finish_reason = sequence.append(token_id)
        self.num_generated_tokens += 1
        is_first = len(sequence.output_ids) == 1
        if finish_reason is None and logprob is None and not is_first:  # nearly always
            return SequenceDelta(
                request_id=sequence.request.request_id, index=sequence.index, token_ids=[token_id]
            )
        news: dict[str, Any] = {"token_ids": [token_id]}
        if logprob is not None:
            news["logprobs"] = [logprob]
        if is_first:
            news["num_cached_tokens"] = sequence.num_cached_tokens or 0
            news["queue_s"] = sequence.queue_s
            news["prompt_logprobs"] = sequence.prompt_logprobs
            if sequence.leader is None:
                self.num_prompt_tokens += sequence.num_prompt
                self.num_cached_tokens += sequence.num_cached_tokens or 0
        if finish_reason is None:
            return SequenceDelta(
                request_id=sequence.request.request_id, index=sequence.index, **news
            )
        if finish_reason is FinishReason.STOP and token_id in sequence.stop_ids:
            news["stop_token_id"] = token_id
        return self.finish(sequence, finish_reason, **news)

    def go_on(self, group: BeamGroup, slot: Sequence) -> list[SequenceDelta]:
        """Note that a beam has its candidates; return the answers, if they are found."""
        answers = group.arrive(slot)
        if answers:
            self.num_prompt_tokens += slot.num_prompt
            self.num_cached_tokens += group.slots[0].num_cached_tokens or 0
            self.num_generated_tokens += sum(len(answer.token_ids) for answer in answers)
            group.end()
            del self._sequences[group.request.request_id]
        return answers

    def drop_beams(
        self,
        group: BeamGroup,
        index: int | None = None,
        reason: FinishReason = FinishReason.ABORT,
        error: Exception | None = None,
    ) -> list[SequenceDelta]:
        """End the answers of beams, or one of them, without a word; with the last, the beams."""
        dropped = group.open_indexes & ({index} if index is not None else group.open_indexes)
        group.open_indexes -= dropped
        if not group.open_indexes:
            group.end()
            del self._sequences[group.request.request_id]
        return [
            SequenceDelta(
                request_id=group.request.request_id,
                index=each,
                finish_reason=reason,
                error=None if error is None else to_wire(error),
            )
            for each in sorted(dropped)
        ]

    def finish(
        self,
        sequence: Sequence,
        reason: FinishReason,
        error: Exception | None = None,
        **news: Any,
    ) -> SequenceDelta:
        """Forget a sequence, give its pages back, and make its last delta."""
        if not sequence.is_compiling:
            self._scheduler.remove(sequence)
        request_id = sequence.request.request_id
        siblings = self._sequences[request_id]
        siblings.remove(sequence)
        if not siblings:
            del self._sequences[request_id]
        return SequenceDelta(
            request_id=request_id,
            index=sequence.index,
            finish_reason=reason,
            error=None if error is None else to_wire(error),
            **news,
        )
