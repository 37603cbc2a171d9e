"""The server's end of an engine: starts its process, sends requests, hands out what comes back.

A process that dies while it serves is started again, however often; one that dies again and again
while it loads is given up. What becomes of its requests then says `pending_requests.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from llmplug.engine.counted_stats import CountedStats
from llmplug.engine.limits import RequestLimits, normalise
from llmplug.engine.pending_requests import PendingRequest, PendingRequests
from llmplug.engine.pool_limits import PoolLimits, check_pooling
from llmplug.engine.process import EngineProcess
from llmplug.errors import (
    EngineError,
    EngineUnavailable,
    LlmplugError,
    UnsupportedParameter,
    from_wire,
)
from llmplug.types import (
    AbortRequest,
    AddPooling,
    AddRequest,
    EngineFailed,
    EngineLoading,
    EngineReady,
    EngineStats,
    FinishReason,
    GenerateRequest,
    PoolOutput,
    PoolRequest,
    PoolResult,
    SequenceDelta,
    StepOutput,
)

if TYPE_CHECKING:
    from llmplug.specs import Progress, SamplerSpec
    from llmplug.types import EngineCommand, EngineMessage

State = Literal["loading", "ready", "failed", "dead"]
# `ready`: it takes requests; `death`: it is started again; `gone`: it is not.
EngineEvent = Literal["ready", "death", "gone"]
OnEvent = Callable[[EngineEvent, str], None]

# Restarts in succession without an answer in between, each after twice the wait of the last.
FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 8.0
MAX_FAILED_LOADS = 5  # of restarts in succession
# What a process sent before it died is still on its way for a moment: results, or why it failed.
LAST_WORDS_S = {"loading": 0.5, "ready": 0.1}
_ANSWERED = (FinishReason.STOP, FinishReason.LENGTH)
_log = logging.getLogger(__name__)


class EngineClient:
    """One model's engine, whichever process runs it at the moment. Lives in one event loop.

    Attributes:
        state: `failed`: it never came up; `dead`: it did, but is gone.
        loading: how far the start is.
        ready: what the process said when it came up, or the one before it; None: none ever did.
        counted: what it and the processes before it have counted.
        failure: why it failed or died, last.
        on_event: told of each turn in its life, and why it came; the requests that it had are still
            open then.
        replicas: engines that it is made of, for who knows of such; it is one.
    """

    replicas = ()

    def __init__(
        self,
        argv: Sequence[str],
        payload: bytes,
        *,
        name: str = "",
        first_process: EngineProcess | None = None,
        sampling_defaults: Mapping[str, Any] | None = None,
        samplers: tuple[SamplerSpec, ...] | None = None,
        on_loading: Progress | None = None,
        keeps_unsent: bool = True,
    ) -> None:
        """Start nothing yet.

        Args:
            argv: the engine's program; the socket's path is appended.
            payload: written to its stdin, for `worker.read_payload`.
            name: of the model, for the log.
            first_process: of the same `argv`, running ahead; it is the client's from `start` on.
            sampling_defaults: what requests fall back to, as the engine will have it.
            samplers: the engine's, to refuse early what none of them takes.
            on_loading: told how far a start is, of this process or of one that follows it.
            keeps_unsent: whether requests that had sent nothing when the process died wait for the
                next one; else they end with `NothingSent`.
        """
        self.state: State = "loading"
        self.loading: EngineLoading | None = None
        self.ready: EngineReady | None = None
        self.counted = CountedStats()
        self.failure: LlmplugError | None = None
        self.on_event: OnEvent = lambda event, why: None
        self._sampling_defaults = dict(sampling_defaults or {})
        self._samplers = samplers
        self._limits: RequestLimits | PoolLimits | None = None  # once the engine has told them
        self._on_loading = on_loading
        self._label = f"{name}: " if name else ""
        self._argv = argv
        self._payload = payload
        self._first_process = first_process
        self._has_settled = asyncio.Event()  # ready, or failed for good
        self._is_stopping = False
        self._process: EngineProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._open = PendingRequests(keeps_unsent=keeps_unsent)
        self._num_restarts = 0  # since a request was answered to its end
        self._num_failed_loads = 0  # since it was ready
        self._last_progress = time.monotonic()

    @property
    def pid(self) -> int | None:
        """Of the engine's process, if there is one."""
        return None if self._process is None else self._process.pid

    @property
    def stats(self) -> EngineStats | None:
        """After the last step; None: the process has taken none."""
        return self.counted.now

    @property
    def stalled_s(self) -> float:
        """Seconds since the engine last did something, while there is work for it; else 0."""
        if not self._open or self.state != "ready":
            return 0.0
        return time.monotonic() - self._last_progress

    async def start(self) -> None:
        """Start the engine's process and watch it; `wait_ready` tells what becomes of it."""
        self._supervisor = asyncio.create_task(self._supervise())

    async def wait_ready(self) -> EngineReady:
        """Wait until the engine takes requests.

        Raises:
            LlmplugError: why it cannot; it will not be tried again.
        """
        await self._has_settled.wait()
        if self.state == "ready" and self.ready is not None:
            return self.ready
        raise self.failure or EngineUnavailable("the engine is stopped")

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        """Yield what each step adds, until all sequences of the request have ended.

        Closing the generator, at any time, ends the request.

        Raises:
            InvalidRequest: the request is refused.
            EngineUnavailable: the engine is not ready, or died meanwhile.
            EngineError: a sequence failed; the others of the request end too.
        """
        limits = self._require_limits()
        if not isinstance(limits, RequestLimits):
            raise UnsupportedParameter("This model generates no text.", param="model")
        request = normalise(request, limits)
        entry = self._enter(request)
        num_running = request.num_sequences
        try:
            self._send(_as_command(request))
            while num_running:
                item: SequenceDelta | LlmplugError = await entry.queue.get()
                if isinstance(item, LlmplugError):
                    num_running = 0
                    raise item
                if item.error is not None:
                    raise from_wire(item.error)
                if item.finish_reason is not None:
                    num_running -= 1
                yield item
        finally:
            self._open.remove(request.request_id)
            if num_running:
                self._send(AbortRequest(request_id=request.request_id))

    async def pool(self, request: PoolRequest) -> PoolResult:
        """Have a vector made of each text; cancelling the call ends the request.

        Raises:
            InvalidRequest: the request is refused.
            EngineUnavailable: the engine is not ready, or died meanwhile.
            EngineError: it failed.
        """
        limits = self._require_limits()
        if not isinstance(limits, PoolLimits):
            raise UnsupportedParameter("This model makes no vectors of texts.", param="model")
        check_pooling(request, limits)
        entry = self._enter(request)
        is_running = True
        try:
            self._send(_as_command(request))
            item: PoolResult | LlmplugError = await entry.queue.get()
            is_running = False
        finally:
            self._open.remove(request.request_id)
            if is_running:
                self._send(AbortRequest(request_id=request.request_id))
        if isinstance(item, LlmplugError):
            raise item
        if item.error is not None:
            raise from_wire(item.error)
        return item

    async def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request or one of its sequences; its generator sees that with the next step."""
        if request_id in self._open:
            self._send(AbortRequest(request_id=request_id, index=index))

    def dump_stacks(self) -> None:
        """Have the engine's process write its stacks to stderr; from any thread."""
        pid = self.pid
        if pid is not None and self.state == "ready":  # before, the signal would end it
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)

    async def stop(self) -> None:
        """End the engine's process and whatever it was doing, within seconds."""
        self._is_stopping = True
        if self._process is not None:
            await self._process.stop(is_serving=self.state == "ready")
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        if self.state != "failed":
            self.state = "dead"
        self._has_settled.set()
        self._open.end(EngineUnavailable("The engine was stopped."))

    def _require_limits(self) -> RequestLimits | PoolLimits:
        if self.state != "ready" or self._limits is None:
            raise EngineUnavailable(f"The engine is {self.state}; try again later.")
        return self._limits

    def _enter(self, request: GenerateRequest | PoolRequest) -> PendingRequest:
        entry = self._open.add(request)
        if len(self._open) == 1:
            self._last_progress = time.monotonic()
        return entry

    def _send(self, command: EngineCommand) -> None:
        """Send, unless the process is just gone: the supervisor ends or replays its requests."""
        if self._process is not None and self.state == "ready":
            with suppress(EngineUnavailable):
                self._process.send(command)

    async def _supervise(self) -> None:
        """Keep a process running until it cannot be, or is not wanted any more."""
        while True:
            has_been_ready = self.ready is not None
            self.failure = await self._run_process()
            if self._is_stopping:
                return
            has_failed = self.state == "loading" and not has_been_ready
            was_serving = self.state == "ready"
            self._num_failed_loads += not was_serving
            self.state = "failed" if has_failed else "dead"
            self._has_settled.clear()
            wait_s = None if has_failed else self._plan_restart()
            if wait_s is None:
                _log.error("%sthe engine is gone for good: %s", self._label, self.failure)
                self.on_event("gone", str(self.failure))
                self._has_settled.set()
                self._open.end(EngineUnavailable(f"The engine is gone: {self.failure}"))
                return
            _log.error("%s%s; starting it again in %.1f s", self._label, self.failure, wait_s)
            self.on_event("death", str(self.failure))
            if was_serving:
                error = EngineUnavailable("The engine died; it is being started again.")
                self._open.end_at_death(error)
            await asyncio.sleep(wait_s)
            self.state = "loading"

    def _plan_restart(self) -> float | None:
        """Return how long to wait before the next start; None: it does not come up any more."""
        if self._num_failed_loads >= MAX_FAILED_LOADS:
            return None
        self._num_restarts += 1
        return min(FIRST_BACKOFF_S * float(2 ** (self._num_restarts - 1)), LAST_BACKOFF_S)

    async def _run_process(self) -> LlmplugError:
        """Run one process to its end; return why it ended."""
        try:
            process = self._first_process or EngineProcess(self._argv)
        except EngineError as error:
            return error
        self._process, self._first_process = process, None
        try:
            await process.start(self._payload)
            reader = asyncio.create_task(self._read(process))
            watcher = asyncio.create_task(process.wait())
            try:
                await asyncio.wait({reader, watcher}, return_when=asyncio.FIRST_COMPLETED)
                if not reader.done():
                    await asyncio.wait({reader}, timeout=LAST_WORDS_S[self.state])
                return await self._explain(reader, watcher)
            finally:
                reader.cancel()
                watcher.cancel()
                await asyncio.gather(reader, watcher, return_exceptions=True)
        finally:
            self._process = None
            self.counted.end()
            await process.close()

    async def _explain(
        self, reader: asyncio.Task[LlmplugError], watcher: asyncio.Task[int]
    ) -> LlmplugError:
        if reader.done():
            error = reader.exception()
            return EngineError(f"unreadable message: {error}") if error else reader.result()
        status = await watcher
        how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        doing = "loading" if self.state == "loading" else "serving"
        return EngineUnavailable(f"the engine's process {how} while {doing}")

    async def _read(self, process: EngineProcess) -> LlmplugError:
        """Take messages until the process says that it has failed."""
        async for message in process.receive():
            if isinstance(message, EngineFailed):
                return from_wire(message.error)
            self._take(process, message)
        raise EngineError("the socket was closed")

    def _take(self, process: EngineProcess, message: EngineMessage) -> None:
        if isinstance(message, StepOutput | PoolOutput):
            self.counted.take(message.stats)
            self._last_progress = time.monotonic()
            for item in message.deltas if isinstance(message, StepOutput) else message.results:
                self._hand_out(item)
        elif isinstance(message, EngineLoading):
            self.loading = message
            if self._on_loading is not None:
                self._on_loading(message.stage, message.done, message.total)
        elif isinstance(message, EngineReady):
            self._start_serving(process, message)

    def _hand_out(self, item: SequenceDelta | PoolResult) -> None:
        self._open.hand_out(item)
        if _is_answer(item):
            self._num_restarts = 0

    def _start_serving(self, process: EngineProcess, ready: EngineReady) -> None:
        self.ready = ready
        self._limits = self._read_limits(ready)
        self.state = "ready"
        self._num_failed_loads = 0
        self._last_progress = time.monotonic()
        self._has_settled.set()
        self.on_event("ready", "")
        for request in self._open.list_kept():
            process.send(_as_command(request))

    def _read_limits(self, ready: EngineReady) -> RequestLimits | PoolLimits:
        if ready.task != "generate":
            return PoolLimits(
                task=ready.task,
                vocab_size=ready.vocab_size,
                max_tokens=ready.context_length,
                width=ready.width,
                token_width=ready.token_width,
            )
        return RequestLimits(
            vocab_size=ready.vocab_size,
            context_length=ready.context_length,
            num_cache_tokens=ready.num_pages * ready.page_size,
            sampling_defaults=self._sampling_defaults,
            samplers=self._samplers,
        )


def _as_command(request: GenerateRequest | PoolRequest) -> AddRequest | AddPooling:
    if isinstance(request, PoolRequest):
        return AddPooling(request=request)
    return AddRequest(request=request)


def _is_answer(item: SequenceDelta | PoolResult) -> bool:
    """Whether a request, or a sequence of it, was answered to its end."""
    if isinstance(item, SequenceDelta):
        return item.finish_reason in _ANSWERED
    return item.error is None
