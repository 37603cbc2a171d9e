"""The engine's process: commands in, one message a step out, over a unix socket.

It sleeps on the socket while there is nothing to do. It ends on StopEngine, on SIGTERM, when its
parent goes away, however that went, and with any rank that computes the model with it; an orphan
removes the socket and its folder.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import zmq

from llmplug.errors import LlmplugError, to_wire
from llmplug.types import (
    AbortRequest,
    AddPooling,
    AddRequest,
    EngineCommand,
    EngineFailed,
    EngineLoading,
    EngineMessage,
    EngineReady,
    EngineStats,
    FinishReason,
    PoolOutput,
    PoolRequest,
    PoolResult,
    SequenceDelta,
    StepOutput,
    StopEngine,
)

if TYPE_CHECKING:
    from types import FrameType

    from llmplug.specs import Progress

STDIN = 0
LENGTH_BYTES = 8  # big-endian, before the payload
LINGER_MS = 1000  # for the last message of a process that ends
PROGRESS_S = 0.05  # between two messages about one stage
PARENT_POLL_S = 2.0  # where the system has no descriptors of processes
EXIT_ORPHANED = 3
EXIT_LOST = 4  # another rank has ended
_log = logging.getLogger(__name__)


class ServedEngine(Protocol):
    """What a process can serve: an Engine, or a PoolingEngine."""

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do or to tell."""

    @property
    def stats(self) -> EngineStats:
        """Gauges and counters as of now."""

    def ready_message(self) -> EngineReady:
        """Say what this engine can do."""

    def add(self, request: Any) -> None:
        """Take a request. Raises InvalidRequest if it is refused."""

    def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one of its sequences."""

    def step(self) -> StepOutput | PoolOutput:
        """Do a step's work; say what is new."""


class OtherRanks(Protocol):
    """Processes that this one cannot do without."""

    def watch(self, on_lost: Callable[[Exception], None]) -> None:
        """Have another thread tell of the end of one."""

    def await_loss(self) -> None:
        """Wait a moment whether one is found to have ended; if so, never return."""


def has_payload() -> bool:
    """Whether the parent has written something already, as for a process that follows a dead one.

    Or it is gone.
    """
    return bool(select.select([STDIN], [], [], 0)[0])


def read_payload(socket_path: str) -> bytes:
    """Read what the parent writes to stdin before anything else.

    Raises:
        SystemExit: the parent is gone already.
    """
    length = int.from_bytes(_read_exactly(LENGTH_BYTES, socket_path), "big")
    return _read_exactly(length, socket_path)


def _read_exactly(count: int, socket_path: str) -> bytes:
    # Not through sys.stdin: its buffer would take the end of file that the watcher waits for.
    data = b""
    while len(data) < count:
        part = os.read(STDIN, count - len(data))
        if not part:
            _remove_socket(socket_path)
            sys.exit(EXIT_ORPHANED)
        data += part
    return data


def run_worker(
    socket_path: str,
    build: Callable[[Progress], ServedEngine],
    *,
    others: OtherRanks | None = None,
) -> int:
    """Build an engine and serve it until told to stop; return the process' exit status.

    Call it in the main thread, after `read_payload`. An exception of a step ends the process: the
    parent starts another. So does the end of another rank.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, _exit_quietly)
    faulthandler.register(signal.SIGUSR1)  # the stacks of all threads, to stderr
    threading.Thread(target=_watch_parent, args=(socket_path,), daemon=True).start()
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.connect(f"ipc://{socket_path}")
        link = _Link(socket, context)
        if others is not None:
            others.watch(link.end)
        try:
            engine = build(link.report)
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
            if not isinstance(error, LlmplugError):
                _await_loss(others)
                _log.error("the engine cannot start", exc_info=True)
            link.send(EngineFailed(error=to_wire(error)))
            return 1
        gc.collect()
        gc.freeze()  # what lives now lives on: collections need not look at it again
        gc.enable()  # whoever builds an engine may have turned it off
        link.send(engine.ready_message())
        try:
            _serve(engine, link)
        except Exception as error:
            if others is not None:
                _await_loss(others)
                link.send(EngineFailed(error=to_wire(error)))
            raise
    return 0


def _await_loss(others: OtherRanks | None) -> None:
    """Where an exception may be the effect of a lost rank, let that be told instead."""
    if others is not None:
        others.await_loss()


def _serve(engine: ServedEngine, link: _Link) -> None:
    while True:
        has_aborted = False
        for command in link.receive(is_waiting=not engine.has_work):
            if isinstance(command, StopEngine):
                return
            if isinstance(command, AbortRequest):
                engine.abort(command.request_id, command.index)
                has_aborted = True
            else:
                _add(engine, link, command)
        if engine.has_work:
            link.send(engine.step())
        elif has_aborted:  # no step follows that would tell how little is left
            link.send(StepOutput(deltas=[], stats=engine.stats))


def _add(engine: ServedEngine, link: _Link, command: AddRequest | AddPooling) -> None:
    """Give a request to the engine; a refusal ends it, with each of its sequences."""
    request = command.request
    try:
        engine.add(request)
    except Exception as error:  # noqa: BLE001 - no request may end the process
        if isinstance(request, PoolRequest):
            result = PoolResult(request_id=request.request_id, error=to_wire(error))
            link.send(PoolOutput(results=[result], stats=engine.stats))
            return
        refused = [
            SequenceDelta(
                request_id=request.request_id,
                index=index,
                finish_reason=FinishReason.ERROR,
                error=to_wire(error),
            )
            for index in range(request.num_sequences)
        ]
        link.send(StepOutput(deltas=refused, stats=engine.stats))


class _Link:
    """The socket, in messages. The main thread's, but for the last words."""

    def __init__(self, socket: zmq.Socket[bytes], context: zmq.Context[Any]) -> None:
        self._socket = socket
        self._context = context
        self._lock = threading.Lock()  # held for each use of the socket, never while waiting
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[EngineCommand] = msgspec.msgpack.Decoder(
            EngineCommand
        )
        self._last_report = ("", 0.0)  # (stage, time)

    def send(self, message: EngineMessage) -> None:
        data = self._encoder.encode(message)
        with self._lock:
            self._socket.send(data)

    def end(self, error: Exception) -> None:
        """End the process with these last words, from any thread and whatever the main one does."""
        with self._lock:  # to the end: the main thread finds no socket any more
            self._socket.send(msgspec.msgpack.encode(EngineFailed(error=to_wire(error))))
            self._socket.close()
            self._context.term()  # once they are sent, or nobody has taken them for a while
            os._exit(EXIT_LOST)

    def receive(self, *, is_waiting: bool) -> Iterator[EngineCommand]:
        """Yield what has come; wait for the first one if there is nothing else to do."""
        if is_waiting:
            self._await_message()
        while True:
            with self._lock:
                try:
                    data = self._socket.recv(zmq.NOBLOCK)
                except zmq.Again:
                    return
            yield self._decoder.decode(data)

    def _await_message(self) -> None:
        """Wait as `poll` does, without the socket: another thread may have something to say."""
        descriptor = self._socket.FD
        while True:
            with self._lock:
                if int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
                    return
            select.select([descriptor], [], [])

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell the parent how far the start is; too many messages are left out."""
        now = time.monotonic()
        last_stage, last_time = self._last_report
        if stage == last_stage and done != total and now - last_time < PROGRESS_S:
            return
        self._last_report = (stage, now)
        self.send(EngineLoading(stage=stage, done=done, total=total))


def _watch_parent(socket_path: str) -> None:
    """End the process when its parent is gone; in a thread, as a step or a start may take long.

    The end of stdin tells, unless the pipe lives on in another child; then the parent itself does.
    """
    parent = os.getppid()
    descriptor = _open_process(parent)
    watched = [STDIN] if descriptor is None else [STDIN, descriptor]
    timeout_s = PARENT_POLL_S if descriptor is None else None
    while os.getppid() == parent:
        readable, _, _ = select.select(watched, [], [], timeout_s)
        if STDIN in readable and not os.read(STDIN, 1):
            break
    _remove_socket(socket_path)
    os._exit(EXIT_ORPHANED)


def _open_process(pid: int) -> int | None:
    """Open a descriptor that is readable once the process has ended; None where there are none."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # forbidden in some sandboxes, or it has ended
        return None


def find_store(socket_path: str) -> Path:
    """Return the path of the file by which ranks find each other, beside the socket."""
    return Path(f"{socket_path}.ranks")


def _remove_socket(socket_path: str) -> None:
    """Remove what the parent can no longer remove: the socket and its own, now empty, folder."""
    path = Path(socket_path)
    with suppress(OSError):  # the parent may be just about it
        path.unlink(missing_ok=True)
        find_store(socket_path).unlink(missing_ok=True)
        path.parent.rmdir()


def _exit_quietly(signum: int, frame: FrameType | None) -> None:
    sys.exit(0)
