"""The sampler chain: logits -> one token id a row.

Legend: S rows of this step, R rows of one sampler, V vocabulary.

Samplers run by stage, then by order, then by name, or as a request says; each on the rows that ask
for it. When one of them raises, the step is sampled again row by row: only the rows that raise
alone fail.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from llmplug.engine.beam_candidates import BEAM_CANDIDATES, CandidateParams, rate_beams
from llmplug.engine.fuse_samplers import fuse_samplers
from llmplug.engine.sampler_choice import find_biases, find_chain, order_specs
from llmplug.engine.thinking import force_ends
from llmplug.engine.token_bans import forbid_tokens
from llmplug.errors import EngineError
from llmplug.ops import send_to_device
from llmplug.specs import SamplerRow, SamplerSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from llmplug.engine.sequence import Sequence
    from llmplug.grammar import Vocabulary
    from llmplug.ops import KernelTable
    from llmplug.types import SamplingParams

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """What came of one row: a token, or why there is none."""

    token_id: int
    error: Exception | None = None


class SamplerChain:
    """All samplers of an engine, in the order in which they run."""

    def __init__(
        self,
        specs: Iterable[SamplerSpec],
        vocab_size: int,
        device: torch.device,
        ops: KernelTable,
        read_vocabulary: Callable[[], Vocabulary] | None = None,
    ) -> None:
        self.specs = order_specs(specs)
        self.read_vocabulary = cache(read_vocabulary or _read_nothing)
        self._samplers = []
        for spec in (*self.specs, BEAM_CANDIDATES):
            more = (self.read_vocabulary,) if spec.reads_vocabulary else ()
            self._samplers.append(spec.make(vocab_size, device, ops, *more))
        self._places = {spec.name: place for place, spec in enumerate(self.specs)}
        self._fusers = [
            spec
            for spec, sampler in zip(self.specs, self._samplers, strict=False)
            if spec.fuses and sampler is not None
        ]
        self._vocab_size = vocab_size

    def select(self, sampling: SamplingParams) -> tuple[tuple[int, Any], ...]:
        """Return (place among the specs, parameters) of the samplers that a request needs.

        Raises:
            UnsupportedParameter: none of them chooses a token.
        """
        links = fuse_samplers(
            find_chain(self.specs, msgspec.structs.asdict(sampling)), self._fusers
        )
        return tuple((self._places[link.spec.name], link.params) for link in links)

    def needs_host(self, samplers: tuple[tuple[int, Any], ...]) -> bool:
        """Say whether one of a request's samplers reads what only the host has."""
        specs = [self.specs[place] for place, _ in samplers]
        return any(spec.reads_history and not spec.takes_pending for spec in specs)

    def choose_ahead(
        self,
        logits_SV: torch.Tensor,
        sequences: list[Sequence],
        pending_S: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose tokens that stay on the device; none of the samplers needs the host.

        Args:
            logits_SV: float32; edited.
            pending_S: of each sequence the token that the host does not know yet, -1 where there is
                none; None: the host knows all.

        Returns:
            ids_S, made such that they exist, and for `read_ahead` what was chosen and whether its
            logit is finite: int64, (2, S).

        Raises:
            Exception: of a sampler; `sample` finds out whose row it is.
        """
        chosen_S, _ = self._choose_ids(logits_SV, sequences, pending_S)
        ids_S = chosen_S.clamp(0, self._vocab_size - 1)
        is_finite_S = logits_SV.gather(1, ids_S[:, None])[:, 0].isfinite()
        return ids_S, torch.stack((chosen_S, is_finite_S.long()))

    def read_ahead(self, report_2S: torch.Tensor) -> list[Choice]:
        """Make choices of what `choose_ahead` reports, once it is on the host."""
        return self._make_choices(*report_2S.tolist())

    def select_for_beams(
        self, sampling: SamplingParams, num_candidates: int
    ) -> tuple[tuple[int, Any], ...]:
        """Return those that a beam needs: the ones that bias logits, then its candidates."""
        links = find_biases(self.specs, msgspec.structs.asdict(sampling))
        places = [
            (self._places[link.spec.name], link.params)
            for link in fuse_samplers(links, self._fusers)
        ]
        candidates = CandidateParams(num_candidates=num_candidates)
        return (*places, (len(self.specs), candidates))

    def sample(
        self,
        logits_SV: torch.Tensor,
        sequences: list[Sequence],
        compute_again: Callable[[], torch.Tensor],
        pending_S: torch.Tensor | None = None,
    ) -> list[Choice]:
        """Choose a token for each sequence.

        Args:
            logits_SV: float32; edited.
            compute_again: makes the same logits anew, in case a sampler fails half-way.
            pending_S: as for `choose_ahead`.
        """
        try:
            return self._choose(logits_SV, sequences, pending_S)
        except Exception:  # noqa: BLE001 - a plugin may raise anything; each row is tried alone
            _log.warning("sampling a batch failed; trying row by row", exc_info=True)
        fresh_SV = compute_again()
        return [
            self._choose_alone(
                fresh_SV[row : row + 1].clone(),
                sequence,
                None if pending_S is None else pending_S[row : row + 1],
            )
            for row, sequence in enumerate(sequences)
        ]

    def _choose_alone(
        self, logits_1V: torch.Tensor, sequence: Sequence, pending_1: torch.Tensor | None
    ) -> Choice:
        try:
            return self._choose(logits_1V, [sequence], pending_1)[0]
        except Exception as error:  # noqa: BLE001 - it ends this row; its caller is told
            return Choice(-1, error)

    def _choose(
        self, logits_SV: torch.Tensor, sequences: list[Sequence], pending_S: torch.Tensor | None
    ) -> list[Choice]:
        ids_S, new_states = self._choose_ids(logits_SV, sequences, pending_S)
        choices = self._check(logits_SV, ids_S)
        for sequence, step, state in new_states:
            sequence.sampler_states[step] = state
        return choices

    def _choose_ids(
        self, logits_SV: torch.Tensor, sequences: list[Sequence], pending_S: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[tuple[Sequence, int, Any]]]:
        """Return ids_S, and what samplers keep of (sequence, which of its samplers)."""
        rate_beams(logits_SV, sequences)
        _hold_back_stops(logits_SV, sequences)
        force_ends(logits_SV, sequences)
        forbid_tokens(logits_SV, sequences)
        ids_S: torch.Tensor | None = None
        new_states: list[tuple[Sequence, int, Any]] = []
        for turn in _take_turns(sequences):
            sampler, is_last = self._samplers[turn.place], self._chooses(turn.place)
            more = self._take_pending(turn, pending_S)
            if len(turn.rows) == len(sequences):  # nearly always; each torch op costs some 20 us
                if is_last:
                    ids_S = sampler.choose(logits_SV, turn.sampler_rows)
                else:
                    sampler.apply(logits_SV, turn.sampler_rows, *more)
            else:
                rows_R = send_to_device(turn.rows, logits_SV.device)
                logits_RV = logits_SV[rows_R]
                if is_last:
                    if ids_S is None:
                        ids_S = torch.full((len(sequences),), -1, device=logits_SV.device)
                    ids_S[rows_R] = sampler.choose(logits_RV, turn.sampler_rows)
                else:
                    sampler.apply(logits_RV, turn.sampler_rows, *more)
                    logits_SV[rows_R] = logits_RV
            new_states += turn.find_new_states(sequences)
        if ids_S is None:
            raise EngineError("no sampler chose a token")
        return ids_S, new_states

    def _take_pending(
        self, turn: _Turn, pending_S: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        """Return what a sampler of this kind gets beside logits and rows."""
        if turn.place == len(self.specs) or not self.specs[turn.place].takes_pending:
            return ()
        if pending_S is None or len(turn.rows) == len(pending_S):
            return (pending_S,)
        return (pending_S[send_to_device(turn.rows, pending_S.device)],)

    def _chooses(self, place: int) -> bool:
        return place == len(self.specs) or self.specs[place].stage == "choose"

    def _check(self, logits_SV: torch.Tensor, ids_S: torch.Tensor) -> list[Choice]:
        """Refuse ids out of range, and rows whose logits were NaN or all forbidden.

        One number a row tells: an argmax over a row with a NaN finds the NaN.
        """
        token_ids: list[int] = ids_S.tolist()
        if min(token_ids) < 0 or max(token_ids) >= self._vocab_size:
            ids_S = ids_S.clamp(0, self._vocab_size - 1)
        logits: list[float] = logits_SV.gather(1, ids_S[:, None])[:, 0].tolist()
        return self._make_choices(token_ids, [math.isfinite(logit) for logit in logits])

    def _make_choices(self, token_ids: list[int], are_finite: list[bool]) -> list[Choice]:
        choices = []
        for token_id, is_finite in zip(token_ids, are_finite, strict=True):
            error = None
            if not 0 <= token_id < self._vocab_size:
                error = EngineError(f"a sampler chose token {token_id}, which does not exist")
            elif not is_finite:
                error = EngineError(
                    "the model's logits are not finite, or every token is forbidden"
                )
            choices.append(Choice(token_id, error))
        return choices


@dataclass(frozen=True, slots=True)
class _Turn:
    """One sampler's turn within a step: the rows that it runs on."""

    place: int  # among the specs
    rows: list[int]
    steps: list[int]  # of each row: which of its samplers this is
    sampler_rows: list[SamplerRow]

    def find_new_states(self, sequences: list[Sequence]) -> Iterator[tuple[Sequence, int, Any]]:
        """Yield what the sampler wants to keep."""
        for row, step, seen in zip(self.rows, self.steps, self.sampler_rows, strict=True):
            if seen.next_state is not None:
                yield sequences[row], step, seen.next_state


def _take_turns(sequences: list[Sequence]) -> Iterator[_Turn]:
    """Yield turns so that each row keeps its own order, and rows of one order share all turns."""
    waiting: dict[int, tuple[list[int], list[int]]] = {}  # place -> (rows, steps)
    _queue(waiting, sequences, range(len(sequences)), [0] * len(sequences))
    while waiting:
        place = min(waiting)
        rows, steps = waiting.pop(place)
        if rows != sorted(rows):  # some came from other samplers; who takes all takes them in order
            rows, steps = map(list, zip(*sorted(zip(rows, steps, strict=True)), strict=True))
        sampler_rows = [
            _make_row(sequences[row], step) for row, step in zip(rows, steps, strict=True)
        ]
        yield _Turn(place, rows, steps, sampler_rows)
        _queue(waiting, sequences, rows, [step + 1 for step in steps])


def _queue(
    waiting: dict[int, tuple[list[int], list[int]]],
    sequences: list[Sequence],
    rows: Iterable[int],
    steps: list[int],
) -> None:
    """Let rows wait for their next samplers; who has none left has its token."""
    for row, step in zip(rows, steps, strict=True):
        samplers = sequences[row].samplers
        if step < len(samplers):
            queued = waiting.setdefault(samplers[step][0], ([], []))
            queued[0].append(row)
            queued[1].append(step)


def _make_row(sequence: Sequence, step: int) -> SamplerRow:
    return SamplerRow(
        sequence.samplers[step][1],
        sequence.request.prompt_ids,
        sequence.output_ids,
        sequence.seed,
        len(sequence.token_ids) + sequence.num_pending,
        sequence.sampler_states[step],
    )


def _read_nothing() -> Vocabulary:
    raise EngineError("a sampler asks for the vocabulary, and this engine was built without one")


def _hold_back_stops(logits_SV: torch.Tensor, sequences: list[Sequence]) -> None:
    """Forbid the ids that end a sequence, until its `min_tokens` are there."""
    for row, sequence in enumerate(sequences):
        if sequence.stop_ids and sequence.is_stop_held_back:
            ids = send_to_device(sorted(sequence.stop_ids), logits_SV.device)
            logits_SV[row].index_fill_(0, ids, float("-inf"))
