"""Rank 0's side of the other ranks: it starts them, tells them, watches them, and ends with them.

A rank that ends before it is told to takes the whole group with it: the others wait for it in the
middle of a sum, and what they hold is of no use without its part.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from llmplug.engine.ranks.link import Link
from llmplug.engine.ranks.messages import BuildModel, Order, RankFailed, RankReady, Report
from llmplug.errors import EngineError, EngineUnavailable, LlmplugError, from_wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llmplug.engine.ranks.messages import Call

STOP_S = 2.0  # for a rank to end by itself
# What a rank's end does to us is often seen before it has ended.
LOSS_S = 1.0
_decoder: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


class RankGroup:
    """The ranks beside this one. Whoever makes a group calls `close`."""

    def __init__(self, argv: Sequence[str], payload: bytes, *, num_ranks: int, store: Path) -> None:
        """Start their processes, which import what they need and wait for `build`.

        Args:
            argv: the program that calls `follow`.
            payload: what this process itself was told.
            store: a file that is not there yet, in a folder that nobody else can open.

        Raises:
            EngineError: the program cannot be run.
        """
        self.num_ranks = num_ranks
        self.store = store
        self._encoder = msgspec.msgpack.Encoder()
        self._lock = threading.Condition()
        self._num_ready = 0
        self._is_closing = False
        self._is_lost = False
        self._watching: list[threading.Thread] = []
        self._others: list[_Other] = []
        try:
            for rank in range(1, num_ranks):
                self._others.append(_Other(argv, rank))
        except BaseException:
            self.close()
            raise
        for other in self._others:
            order = Order(other.rank, num_ranks, str(store), payload)
            with suppress(OSError):  # it has ended already: the watch tells
                other.link.send(self._encoder.encode(order))

    @property
    def pids(self) -> list[int]:
        """Of the processes, by rank from 1 on."""
        return [other.process.pid for other in self._others]

    def watch(self, on_lost: Callable[[Exception], None]) -> None:
        """Have the end of a rank told, by another thread."""
        for other in self._others:
            thread = threading.Thread(target=self._attend, args=(other, on_lost), daemon=True)
            self._watching.append(thread)
            thread.start()

    def build(self, num_pages: int) -> None:
        """Let all ranks load their parts; they wait for this one to do the same."""
        self.tell(BuildModel(num_pages))

    def await_ready(self) -> None:
        """Wait until every rank has built its model."""
        with self._lock:
            self._lock.wait_for(lambda: self._num_ready == len(self._others))

    def tell(self, message: BuildModel | Call) -> None:
        """Send a message to every rank.

        Raises:
            EngineUnavailable: one is gone.
        """
        data = self._encoder.encode(message)
        for other in self._others:
            try:
                other.link.send(data)
            except OSError as error:
                raise EngineUnavailable(f"rank {other.rank} is gone") from error

    def await_loss(self) -> None:
        """Give the watch a moment to find out whether a rank is lost; if so, never return.

        For whoever sees what may be its effect: whoever watches says the last words.
        """
        with self._lock:
            if self._lock.wait_for(lambda: self._is_lost, LOSS_S):
                self._lock.wait()

    def close(self) -> None:
        """End all ranks, and wait until they are gone."""
        with self._lock:
            self._is_closing = True
            self._lock.notify_all()
        for other in self._others:
            other.link.shut()
        for other in self._others:
            try:
                other.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                other.process.kill()
                other.process.wait()
        for thread in self._watching:
            thread.join()
        for other in self._others:
            other.link.close()
        self.store.unlink(missing_ok=True)

    def _attend(self, other: _Other, on_lost: Callable[[Exception], None]) -> None:
        """Take what a rank says until its end, and find out how that came."""
        failure: LlmplugError | None = None
        doing = "loading"
        while (data := other.link.receive()) is not None:
            report = _decoder.decode(data)
            if isinstance(report, RankReady):
                doing = "serving"
                with self._lock:
                    self._num_ready += 1
                    self._lock.notify_all()
            else:
                failure = _name_rank(report, other.rank)
        status = other.process.wait()
        with self._lock:
            if type(failure) is EngineError and len(self._others) > 1:
                # Whatever it ran into may be what the end of a third one did to it.
                self._lock.wait_for(lambda: self._is_closing or self._is_lost, LOSS_S)
            if self._is_closing or self._is_lost:
                return
            self._is_lost = True
            self._lock.notify_all()
        on_lost(failure or EngineUnavailable(_describe_end(other.rank, status, doing)))


class _Other:
    """One of the ranks: its process, and the link to it."""

    def __init__(self, argv: Sequence[str], rank: int) -> None:
        self.rank = rank
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = subprocess.Popen(argv, stdin=theirs.fileno())  # noqa: S603 - our own program
            except OSError as error:
                ours.close()
                raise EngineError(f"cannot run {argv[0]}: {error}") from error
        self.link = Link(ours)


def _name_rank(report: RankFailed, rank: int) -> LlmplugError:
    error = report.error
    return from_wire(msgspec.structs.replace(error, message=f"rank {rank}: {error.message}"))


def _describe_end(rank: int, status: int, doing: str) -> str:
    how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
    return f"the process of rank {rank} {how} while {doing}"
