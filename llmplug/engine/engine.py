"""The engine's loop: schedule -> run -> sample -> record."""

from __future__ import annotations

import logging
import secrets
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import torch

from llmplug.engine.beam_group import BeamGroup
from llmplug.engine.block_pool import BlockPool
from llmplug.engine.cost_model import CostModel
from llmplug.engine.device_runner import make_runner
from llmplug.engine.flight import Flight, Forward, Sample, needs_host
from llmplug.engine.grammar_masks import GrammarMasks, find_breach
from llmplug.engine.limits import normalise
from llmplug.engine.open_requests import OpenRequests
from llmplug.engine.rating import rate_choices, rate_prompts
from llmplug.engine.runner import RunnerLost
from llmplug.engine.sample import SamplerChain
from llmplug.engine.scheduler import Schedule, Scheduler
from llmplug.engine.sequence import Sequence, derive_seed
from llmplug.engine.token_bans import explain_error
from llmplug.engine.transfers import Fetcher
from llmplug.errors import EngineError, InvalidRequest
from llmplug.types import (
    EngineReady,
    EngineStats,
    FinishReason,
    GenerateRequest,
    SequenceDelta,
    StepOutput,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from llmplug.engine.graphs import GraphRunner
    from llmplug.engine.runner import AheadRunner, Runner, StepRunner
    from llmplug.engine.settings import EngineSettings
    from llmplug.grammar import CompiledGrammar, GrammarBackend, Vocabulary
    from llmplug.ops import KernelTable
    from llmplug.specs import Model, ModelShape, SamplerSpec
    from llmplug.types import BeamParams

# Steps that fail one after another before the engine gives itself up: one may be a request's
# fault, several are the device's or ours.
MAX_FAILED_STEPS = 3
# How long a step waits for a grammar when there is nothing else to do; commands wait as long.
COMPILE_WAIT_S = 0.005
_log = logging.getLogger(__name__)


class Engine:
    """Runs many sequences through one model, a batch of tokens a step. Not thread-safe."""

    def __init__(
        self,
        model: Model,
        shape: ModelShape,
        ops: KernelTable,
        samplers: Iterable[SamplerSpec],
        settings: EngineSettings,
        device: torch.device,
        *,
        open_grammars: Callable[[], GrammarBackend] | None = None,
        read_vocabulary: Callable[[], Vocabulary] | None = None,
        graphs: GraphRunner | None = None,
        lead: Callable[[Runner], AheadRunner] | None = None,
    ) -> None:
        """Allocate the caches.

        Args:
            graphs: what launches whole steps; None: tokens pass through the host, as is best where
                the host computes them.
            lead: makes of the runner one that has other ranks run with it; None: there are none.
        """
        self.settings = settings
        self.report: dict[str, Any] = {}  # whoever builds an engine may tell how
        self._pool = BlockPool(settings.num_pages, settings.page_size)
        self._cost = CostModel()
        self._scheduler = Scheduler(settings, self._pool, self._cost)
        runner = make_runner(model, shape, ops, settings, device, graphs)
        self._runner: StepRunner = runner if lead is None else lead(runner)
        self._ahead = None if graphs is None else cast("AheadRunner", self._runner)
        self._fetcher = Fetcher(device)
        self._in_flight: Flight | None = None  # the last step, while its tokens are not known
        self._landed_s = 0.0  # when the last one's were
        self._chain = SamplerChain(samplers, settings.vocab_size, device, ops, read_vocabulary)
        self._masks = GrammarMasks(open_grammars, settings.vocab_size, device, ops)
        self._compiling: list[tuple[Future[CompiledGrammar], list[Sequence]]] = []
        self.limits = replace(settings.limits, samplers=tuple(self._chain.specs))
        self._requests = OpenRequests(self._scheduler)
        self._ended: list[SequenceDelta] = []  # told with the next step
        self._num_arrivals = 0
        self._num_steps = 0
        self._num_failed_steps = 0  # in succession
        self._seconds = {"schedule_s": 0.0, "run_s": 0.0, "sample_s": 0.0, "record_s": 0.0}

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do or to tell."""
        return bool(self._requests or self._ended)

    @property
    def stats(self) -> EngineStats:
        """Gauges and counters as of now."""
        return EngineStats(
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting),
            num_pages_used=self._pool.num_used,
            num_pages=self._pool.num_pages,
            num_steps=self._num_steps,
            num_preemptions=self._scheduler.num_preemptions,
            num_prompt_tokens=self._requests.num_prompt_tokens,
            num_generated_tokens=self._requests.num_generated_tokens,
            num_cached_tokens=self._requests.num_cached_tokens,
            **self._seconds,
        )

    def ready_message(self) -> EngineReady:
        """Say what this engine can do, and what it holds."""
        return EngineReady(
            vocab_size=self.settings.vocab_size,
            context_length=self.limits.max_tokens,
            num_pages=self.settings.num_pages,
            page_size=self.settings.page_size,
            report={**self.report, "cache_bytes": self._runner.cache_bytes},
        )

    def add(self, request: GenerateRequest) -> None:
        """Take a request; its sequences run from the next step on.

        Raises:
            InvalidRequest: it is refused, and nothing of it is kept.
        """
        request = normalise(request, self.limits)
        if request.request_id in self._requests:
            raise InvalidRequest(f"The request id {request.request_id!r} is in use.")
        if request.sampling.beams is not None:
            self._add_beams(request, request.sampling.beams)
            return
        samplers = self._chain.select(request.sampling)
        seed = request.sampling.seed
        if seed is None:
            seed = secrets.randbits(63)
        sequences: list[Sequence] = []
        for index in range(request.num_sequences):
            sequence = Sequence(
                request,
                index,
                seed=derive_seed(seed, index),
                eos_token_ids=self.settings.eos_token_ids,
                arrival=self._num_arrivals,
                samplers=samplers,
                leader=sequences[0] if sequences else None,
                needs_host=needs_host(request, has_history=self._chain.needs_host(samplers)),
            )
            self._num_arrivals += 1
            sequences.append(sequence)
        compiling = self._masks.compile(request.grammar) if request.grammar else None
        self._requests.open(request.request_id, sequences)
        if compiling is not None:
            self._compiling.append((compiling, sequences[:]))
            return
        for sequence in sequences:
            self._scheduler.add(sequence)

    def _add_beams(self, request: GenerateRequest, beams: BeamParams) -> None:
        group = BeamGroup(
            request,
            beams,
            self._chain,
            self._scheduler,
            self.settings.eos_token_ids,
            self._num_arrivals,
            self._chain.read_vocabulary,
        )
        self._num_arrivals += len(group.slots)
        self._requests.open(request.request_id, group.slots)

    def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one of its sequences; unknown ones have ended already."""
        for sequence in self._requests.list_sequences(request_id):
            if sequence.beams is not None:
                self._ended += self._requests.drop_beams(sequence.beams, index)
                return
            if index is None or sequence.index == index:
                self._ended.append(self._requests.finish(sequence, FinishReason.ABORT))

    def step(self) -> StepOutput:
        """Compute one batch of tokens; return what is new in each sequence.

        Raises:
            EngineError: several forward passes in succession failed; the engine is of no more use.
        """
        with torch.inference_mode():
            started = perf_counter()
            if self._compiling:
                self._admit_compiled()
            deltas, self._ended = self._ended, []
            if self._in_flight is not None and self._scheduler.may_preempt:
                deltas += self._record(self._in_flight)
                self._in_flight = None
            schedule = self._scheduler.schedule()
            scheduled = perf_counter()
            forward = self._run(schedule)
            ran = perf_counter()
            flight = self._sample(schedule, forward, scheduled)
            sampled = perf_counter()
            for landed in self._land(flight):
                deltas += self._record(landed)
        self._num_steps += 1
        self._seconds["schedule_s"] += scheduled - started
        self._seconds["run_s"] += ran - scheduled
        self._seconds["sample_s"] += sampled - ran
        if not flight.is_late:
            self._learn(schedule, forward, sampled - scheduled)
        self._seconds["record_s"] += perf_counter() - sampled
        return StepOutput(deltas=deltas, stats=self.stats)

    def _land(self, flight: Flight) -> list[Flight]:
        """Return the steps whose tokens are to be read now; a late one is read after the next."""
        before, self._in_flight = self._in_flight, flight if flight.is_late else None
        landed = [] if before is None else [before]
        return landed if flight.is_late else [*landed, flight]

    def _admit_compiled(self) -> None:
        """Let the sequences run whose grammar is compiled; wait a little if none else can."""
        if not self._scheduler.running and not self._scheduler.waiting:
            wait([each for each, _ in self._compiling], COMPILE_WAIT_S, FIRST_COMPLETED)
        compiling, self._compiling = self._compiling, []
        for compiled, sequences in compiling:
            alive = [each for each in sequences if self._requests.is_alive(each)]
            if not compiled.done():
                self._compiling.append((compiled, alive))
                continue
            error = compiled.exception()
            for sequence in alive:
                if error is None:
                    sequence.grammar = compiled.result().start()
                    sequence.is_compiling = False
                    self._scheduler.add(sequence)
                else:
                    reason = error if isinstance(error, Exception) else EngineError(repr(error))
                    ended = self._requests.finish(sequence, FinishReason.ERROR, error=reason)
                    self._ended.append(ended)

    def _run(self, schedule: Schedule) -> Forward:
        """Compute the scheduled tokens, and logits where a token is to be chosen."""
        forward = Forward()
        end = 0
        for place, (sequence, count) in enumerate(schedule):
            end += count
            if count == sequence.num_missing:
                forward.places.append(place)
                forward.rows.append(end - 1)
                forward.sequences.append(sequence)
        if not end:
            return forward
        forward.masks = self._masks.start_fill(forward.sequences)
        try:
            forward.hidden_TD = self._runner.run(schedule)
            rate_prompts(schedule, forward.hidden_TD, self._runner)
            if forward.rows:
                forward.logits_SV = self._runner.compute_logits(forward.hidden_TD, forward.rows)
        except (torch.AcceleratorError, RunnerLost):
            raise  # the device, or a rank, is lost with all that it holds
        except Exception as error:
            self._num_failed_steps += 1
            if self._num_failed_steps >= MAX_FAILED_STEPS:
                raise EngineError(f"{MAX_FAILED_STEPS} steps in succession failed") from error
            _log.exception("a forward pass failed; the %d sequences in it end", len(schedule))
            return Forward(error=error)
        self._num_failed_steps = 0
        return forward

    def _learn(self, schedule: Schedule, forward: Forward, seconds: float) -> None:
        """Tell the cost model how long a step took."""
        if forward.hidden_TD is None:
            self._cost.forget_unawaited()
        else:
            self._cost.observe_step(schedule.work, seconds, is_awaited=bool(forward.rows))

    def _sample(self, schedule: Schedule, forward: Forward, started_s: float) -> Flight:
        """Choose a token for each sequence whose tokens are all computed now.

        Where none of them needs the host for the next one, the host need not know them yet.
        """
        flight = Flight(schedule, forward, started_s)
        if self._ahead is not None and forward.logits_SV is not None and forward.is_free:
            self._sample_ahead(flight, self._ahead, forward.logits_SV)
        if not flight.is_late:
            flight.samples = self._sample_now(schedule, forward)
        return flight

    def _sample_ahead(self, flight: Flight, runner: AheadRunner, logits_SV: torch.Tensor) -> None:
        """Choose tokens on the device and leave them there, for the next step to compute."""
        forward = flight.forward
        try:
            ids_S, report_2S = self._chain.choose_ahead(
                logits_SV, forward.sequences, runner.find_pending(forward.sequences)
            )
        except Exception:  # noqa: BLE001 - a plugin may raise anything; each row is tried alone
            _log.warning("sampling ahead failed; trying as usual", exc_info=True)
            if forward.hidden_TD is not None:
                forward.logits_SV = runner.compute_logits(forward.hidden_TD, forward.rows)
            return
        runner.keep(forward.sequences, ids_S)
        flight.fetch = self._fetcher.start(report_2S)
        chosen = set(forward.places)
        for place, (sequence, count) in enumerate(flight.schedule):
            sequence.launch(count, is_chosen=place in chosen)

    def _sample_now(self, schedule: Schedule, forward: Forward) -> list[Sample]:
        """Choose tokens that the host knows at once."""
        samples = [Sample(error=forward.error) for _ in range(len(schedule))]
        hidden_TD, rows = forward.hidden_TD, forward.rows
        if hidden_TD is None or forward.logits_SV is None:
            return samples
        asking = [
            row
            for row, sequence in enumerate(forward.sequences)
            if sequence.request.sampling.logprobs is not None
        ]
        raw_RV = forward.logits_SV[asking] if asking else None  # a copy: samplers edit logits
        masks = forward.masks.result() if forward.masks is not None else None

        def compute_again() -> torch.Tensor:
            logits_SV = self._runner.compute_logits(hidden_TD, rows)
            if masks is not None:
                self._masks.apply(masks, logits_SV)
            return logits_SV

        if masks is not None:
            self._masks.apply(masks, forward.logits_SV)
        choices = self._chain.sample(
            forward.logits_SV,
            forward.sequences,
            compute_again,
            None if self._ahead is None else self._ahead.find_pending(forward.sequences),
        )
        for row, (place, choice) in enumerate(zip(forward.places, choices, strict=True)):
            samples[place].token_id = choice.token_id
            samples[place].error = explain_error(choice.error, forward.sequences[row])
            if masks is not None and row in masks.errors:
                samples[place].error = masks.errors[row]
        if raw_RV is not None:
            rate_choices(raw_RV, asking, forward, samples)
        return samples

    def _record(self, flight: Flight) -> list[SequenceDelta]:
        """Note what a step computed and chose; end the sequences that are done."""
        deltas = []
        for (sequence, count), sample in zip(flight.schedule, self._read(flight), strict=True):
            if not sequence.is_running:  # it ended when this was under way: a token too many
                continue
            error = sample.error
            if error is None and sample.token_id is not None:
                error = find_breach(sequence, sample.token_id)
            if error is not None and sequence.beams is not None:
                deltas += self._requests.drop_beams(
                    sequence.beams, reason=FinishReason.ERROR, error=error
                )
                continue
            if error is not None:
                deltas.append(self._requests.finish(sequence, FinishReason.ERROR, error=error))
                continue
            if flight.is_late:
                self._scheduler.publish(sequence)
            else:
                self._scheduler.advance(sequence, count)
            if sample.token_id is not None and sequence.beams is not None:
                deltas += self._requests.go_on(sequence.beams, sequence)
            elif sample.token_id is not None:
                deltas.append(self._requests.append(sequence, sample.token_id, sample.logprob))
        return deltas

    def _read(self, flight: Flight) -> list[Sample]:
        """Return what a step found; wait for the tokens of a late one."""
        if flight.fetch is None:
            return flight.samples
        forward = flight.forward
        samples = [Sample() for _ in range(len(flight.schedule))]
        choices = self._chain.read_ahead(flight.fetch())
        for place, sequence, choice in zip(forward.places, forward.sequences, choices, strict=True):
            sequence.num_pending -= 1
            samples[place].token_id = choice.token_id
            samples[place].error = choice.error
        now = perf_counter()
        self._learn(flight.schedule, forward, now - max(flight.started_s, self._landed_s))
        self._landed_s = now
        return samples
