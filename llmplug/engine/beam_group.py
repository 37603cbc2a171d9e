"""The sequences of one beam search: they run like any others, and wait for each other.

Each is a slot for one beam. A beam goes on in the slot of the beam that it comes from; where one
parts in several, the others take slots that are free, share the full pages of their origin and
compute the rest anew: at most a page of tokens, and nothing is copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.engine.beam import Answer, BeamSearch
from llmplug.engine.sequence import Sequence
from llmplug.types import FinishReason, GenerateRequest, SequenceDelta

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence as Items

    from llmplug.engine.sample import SamplerChain
    from llmplug.engine.scheduler import Scheduler
    from llmplug.grammar import Vocabulary
    from llmplug.types import BeamParams


class BeamGroup:
    """One request's beams, from their first token to their answers."""

    def __init__(
        self,
        request: GenerateRequest,
        beams: BeamParams,
        chain: SamplerChain,
        scheduler: Scheduler,
        eos_token_ids: frozenset[int],
        first_arrival: int,
        read_vocabulary: Callable[[], Vocabulary],
    ) -> None:
        """Make the slots, and let the first one run.

        Args:
            request: checked, so that it says `max_tokens`.
            beams: what it asks for.
            first_arrival: of the slots, which arrive one after the other.
            read_vocabulary: asked for if there are stop strings.
        """
        sampling = request.sampling
        self.request = request
        self.open_indexes = set(range(request.num_sequences))  # answers that are still to be told
        self._scheduler = scheduler
        self._min_tokens, self._max_tokens = sampling.min_tokens, sampling.max_tokens or 1
        self._stops = [text.encode() for text in sampling.stop]
        self._token_bytes: Items[bytes] = read_vocabulary().token_bytes if self._stops else ()
        self._stop_ids = frozenset(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            self._stop_ids |= eos_token_ids
        self._search = BeamSearch(beams, self._max_tokens, len(self._stop_ids), self._find_end)
        samplers = chain.select_for_beams(sampling, self._search.num_candidates)
        self.slots: list[Sequence] = []
        for place in range(beams.width):
            slot = Sequence(
                request,
                place,
                seed=0,  # nothing is drawn
                eos_token_ids=eos_token_ids,
                arrival=first_arrival + place,
                samplers=samplers,
                leader=self.slots[0] if place else None,
            )
            slot.beams = self
            self.slots.append(slot)
        self._active = self.slots[:1]  # slot of each beam, the best first
        self._arrived: set[Sequence] = set()
        scheduler.add(self.slots[0])
        for slot in self.slots[1:]:
            scheduler.add_parked(slot)

    def arrive(self, slot: Sequence) -> list[SequenceDelta]:
        """Note that a slot has its candidates; go on if all have. Return the answers if it is over.

        The slot's last sampler has left them as its state.
        """
        self._arrived.add(slot)
        self._scheduler.park(slot)
        if len(self._arrived) < len(self._active):
            return []
        self._arrived.clear()
        branches = self._search.advance([each.sampler_states[-1] for each in self._active])
        if not branches:
            return self._tell_answers()
        parents = [self._active[branch.parent] for branch in branches]
        free = [each for each in self.slots if each not in parents]
        taken: set[Sequence] = set()
        moves = []
        for branch, parent in zip(branches, parents, strict=True):
            slot = free.pop() if parent in taken else parent
            taken.add(slot)
            moves.append((slot, parent, branch.token_id))
        # Those that part first: a parent's pages are as they were until it goes on.
        for slot, parent, token_id in moves:
            if slot is not parent:
                slot.replace_output([*parent.output_ids, token_id])
                slot.sampler_states = list(parent.sampler_states)
                self._scheduler.adopt(slot, parent)
        for slot, parent, token_id in moves:
            if slot is parent:
                slot.append_beam_token(token_id)
        self._active = [slot for slot, _, _ in moves]
        for slot in self._active:
            self._scheduler.resume(slot)
        return []

    def end(self) -> None:
        """Give everything back."""
        for slot in self.slots:
            self._scheduler.remove(slot)

    def _tell_answers(self) -> list[SequenceDelta]:
        """Return each answer whole; if there are fewer than asked for, the last again."""
        answers = self._search.answers
        return [
            self._as_delta(index, answers[min(index, len(answers) - 1)])
            for index in sorted(self.open_indexes)
        ]

    def _as_delta(self, index: int, answer: Answer) -> SequenceDelta:
        last_id = answer.output_ids[-1]
        is_stopped = answer.reason is FinishReason.STOP and last_id in self._stop_ids
        return SequenceDelta(
            request_id=self.request.request_id,
            index=index,
            token_ids=answer.output_ids,
            num_cached_tokens=(self.slots[0].num_cached_tokens or 0) if index == 0 else 0,
            finish_reason=answer.reason,
            stop_token_id=last_id if is_stopped else None,
        )

    def _find_end(self, output_ids: Items[int], token_id: int) -> FinishReason | None:
        length = len(output_ids) + 1
        if token_id in self._stop_ids and length > self._min_tokens:
            return FinishReason.STOP
        if self._stops and length >= self._min_tokens and self._ends_in_stop(output_ids, token_id):
            return FinishReason.STOP
        return FinishReason.LENGTH if length >= self._max_tokens else None

    def _ends_in_stop(self, output_ids: Items[int], token_id: int) -> bool:
        """Whether the text holds a stop string of which the new token has a part."""
        new = self._token_bytes[token_id]
        longest = max(map(len, self._stops))
        tail = b""
        for before in reversed(output_ids):
            if len(tail) >= longest:
                break
            tail = self._token_bytes[before] + tail
        return any(stop in tail[-longest:] + new for stop in self._stops)
