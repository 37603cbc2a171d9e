"""The engine of models that read texts whole: schedule -> read -> pool -> record.

A step packs as many texts as it may hold tokens, one of each request in turn, so that a request of
thousands does not hold up one of a single text. Nothing is kept of a text after its step.

Legend: T packed tokens, N texts of a step, D model width.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from itertools import accumulate
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F

from llmplug.engine.pool_limits import PoolLimits, check_pooling
from llmplug.engine.runner import RunnerLost
from llmplug.errors import EngineError, InvalidRequest, to_wire
from llmplug.ops import TextBatch, TextStarts
from llmplug.types import EngineReady, EngineStats, PoolOutput, PoolRequest, PoolResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.engine.dense_stack import DenseStack
    from llmplug.ops import KernelTable
    from llmplug.pooling import Pooling

MAX_FAILED_STEPS = 3  # in succession, before the engine gives itself up
_log = logging.getLogger(__name__)


class TextReader(Protocol):
    """A model that reads texts whole, however it is made."""

    def encode(self, batch: TextBatch) -> torch.Tensor:
        """Return hidden_TD."""


@dataclass(slots=True)
class _Entry:
    """A request, and the vectors that it has so far."""

    request: PoolRequest
    arrival: int
    num_taken: int = 0  # texts that are read, or being read
    vectors: list[torch.Tensor] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return len(self.vectors) == len(self.request.prompts)

    @property
    def has_more(self) -> bool:
        return self.num_taken < len(self.request.prompts)


@dataclass(frozen=True, slots=True)
class _Text:
    """One text of a step."""

    entry: _Entry
    token_ids: Sequence[int]
    type_ids: Sequence[int]


class PoolingEngine:
    """Makes a vector of each text. Not thread-safe.

    Every request ends with exactly one result; one that is aborted with none.

    Args:
        reader: the model; it has `classify` where that is its task.
        pooling: how hidden states become a vector.
        dense: what embeddings pass through after pooling; None: nothing.
        limits: what the model is for, and what a request may ask for.
        max_batch_tokens: of a step; a longer text has a step of its own.
        max_texts: of a step.
    """

    def __init__(
        self,
        reader: TextReader,
        ops: KernelTable,
        pooling: Pooling,
        limits: PoolLimits,
        device: torch.device,
        *,
        max_batch_tokens: int,
        max_texts: int,
        dense: DenseStack | None = None,
    ) -> None:
        self.limits = limits
        self.report: dict[str, Any] = {}  # whoever builds an engine may tell how
        self._reader = reader
        self._ops = ops
        self._pooling = pooling
        self._dense = dense
        self._device = device
        self._max_batch_tokens = max_batch_tokens
        self._max_texts = max_texts
        self._entries: dict[str, _Entry] = {}
        self._queue: deque[_Entry] = deque()  # those with texts to be taken, next one first
        self._num_arrivals = 0
        self._num_steps = 0
        self._num_failed_steps = 0  # in succession
        self._num_tokens = 0
        self._run_s = 0.0

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._queue)

    @property
    def stats(self) -> EngineStats:
        """Gauges and counters as of now."""
        return EngineStats(
            num_waiting=sum(len(entry.request.prompts) - entry.num_taken for entry in self._queue),
            num_steps=self._num_steps,
            num_prompt_tokens=self._num_tokens,
            run_s=self._run_s,
        )

    def ready_message(self) -> EngineReady:
        """Say what this engine can do."""
        return EngineReady(
            vocab_size=self.limits.vocab_size,
            context_length=self.limits.max_tokens,
            num_pages=0,
            page_size=0,
            report=self.report,
            task=self.limits.task,
            width=self.limits.width,
            token_width=self.limits.token_width,
        )

    def add(self, request: PoolRequest) -> None:
        """Take a request; its texts are read from the next step on.

        Raises:
            InvalidRequest: it is refused, and nothing of it is kept.
        """
        check_pooling(request, self.limits)
        if request.request_id in self._entries:
            raise InvalidRequest(f"The request id {request.request_id!r} is in use.")
        entry = _Entry(request, self._num_arrivals)
        self._num_arrivals += 1
        self._entries[request.request_id] = entry
        self._queue.append(entry)

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Forget a request; unknown ones have ended already."""
        entry = self._entries.pop(request_id, None)
        if entry is not None and entry in self._queue:
            self._queue.remove(entry)

    def step(self) -> PoolOutput:
        """Read one batch of texts; return what is finished with it.

        Raises:
            EngineError: several steps in succession failed; the engine is of no more use.
        """
        started = perf_counter()
        texts = self._schedule()
        results: list[PoolResult] = []
        if texts:
            with torch.inference_mode():
                results = self._run(texts)
            self._num_steps += 1
            self._num_tokens += sum(len(text.token_ids) for text in texts)
        self._run_s += perf_counter() - started
        return PoolOutput(results=results, stats=self.stats)

    def _schedule(self) -> list[_Text]:
        """Take texts while a step has room: of the best priority, one of each request in turn."""
        texts: list[_Text] = []
        num_tokens = 0
        while self._queue and len(texts) < self._max_texts:
            best = min(entry.request.priority for entry in self._queue)
            while self._queue[0].request.priority != best:
                self._queue.rotate(-1)
            entry = self._queue[0]
            request = entry.request
            token_ids = request.prompts[entry.num_taken]
            if texts and num_tokens + len(token_ids) > self._max_batch_tokens:
                break
            type_ids = request.type_ids[entry.num_taken] if request.type_ids else ()
            texts.append(_Text(entry, token_ids, type_ids))
            num_tokens += len(token_ids)
            entry.num_taken += 1
            self._queue.popleft()
            if entry.has_more:
                self._queue.append(entry)
        return texts

    def _run(self, texts: Sequence[_Text]) -> list[PoolResult]:
        try:
            self._pool(texts)
        except (torch.AcceleratorError, RunnerLost):
            raise  # the device, or a rank, is lost with all that it holds
        except Exception as error:
            self._num_failed_steps += 1
            if self._num_failed_steps >= MAX_FAILED_STEPS:
                raise EngineError(f"{MAX_FAILED_STEPS} steps in succession failed") from error
            _log.exception("a step failed; the %d texts in it end", len(texts))
            return self._fail(texts, error)
        self._num_failed_steps = 0
        done = {text.entry.request.request_id: text.entry for text in texts if text.entry.is_done}
        return [self._finish(entry) for entry in done.values()]

    def _pool(self, texts: Sequence[_Text]) -> None:
        """Read the texts, and give each entry its vectors."""
        batch = make_text_batch(
            [text.token_ids for text in texts], [text.type_ids for text in texts], self._device
        )
        hidden_TD = self._reader.encode(batch)
        pooled_ND = self._ops.pool_texts(
            hidden_TD, batch.starts, kind=self._pooling.kind, is_normalised=False
        )
        tasks = {text.entry.request.task for text in texts}
        if self._dense is not None and "embed" in tasks:
            pooled_ND = self._dense(pooled_ND)
        if "classify" in tasks:
            scores_NL = self._reader.classify(pooled_ND)  # type: ignore[attr-defined]
        for i, text in enumerate(texts):
            request = text.entry.request
            if request.task == "classify":
                vector = scores_NL[i]
            elif request.task == "token_embed":
                vector = hidden_TD[batch.starts[i] : batch.starts[i + 1]].float()
            else:
                vector = pooled_ND[i]
            text.entry.vectors.append(self._shape(vector, request))

    def _shape(self, vector: torch.Tensor, request: PoolRequest) -> torch.Tensor:
        """Cut and normalise embeddings as the request wants them; flat, float32."""
        if request.task == "classify":
            return vector
        if request.dimensions is not None:
            vector = vector[..., : request.dimensions]
        wish = request.is_normalised
        if self._pooling.is_normalised if wish is None else wish:
            vector = F.normalize(vector, dim=-1)
        return vector.flatten()

    def _finish(self, entry: _Entry) -> PoolResult:
        del self._entries[entry.request.request_id]
        values = torch.cat(entry.vectors).to("cpu", torch.float32).numpy()
        return PoolResult(
            request_id=entry.request.request_id,
            values=values.astype("<f4", copy=False).tobytes(),
            lengths=[len(vector) for vector in entry.vectors],
        )

    def _fail(self, texts: Sequence[_Text], error: Exception) -> list[PoolResult]:
        """End all requests of a step that failed."""
        ids = dict.fromkeys(text.entry.request.request_id for text in texts)
        for request_id in ids:
            self.abort(request_id)
        return [PoolResult(request_id=request_id, error=to_wire(error)) for request_id in ids]


def make_text_batch(
    token_ids: Sequence[Sequence[int]], type_ids: Sequence[Sequence[int]], device: torch.device
) -> TextBatch:
    """Pack texts; one without type ids is all of the first type."""
    lengths = [len(ids) for ids in token_ids]
    has_types = any(type_ids)
    types = [
        each or [0] * length for each, length in zip(type_ids, lengths, strict=True) if has_types
    ]
    return TextBatch(
        token_ids_T=torch.tensor([i for ids in token_ids for i in ids], device=device),
        positions_T=torch.cat([torch.arange(length) for length in lengths]).to(device),
        type_ids_T=torch.tensor([i for ids in types for i in ids], device=device)
        if has_types
        else None,
        starts=TextStarts([0, *accumulate(lengths)]),
    )
