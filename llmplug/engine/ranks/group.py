"""Rank 0's side of the other ranks: it starts them, tells them, watches them, and ends with them.

Those of its own machine are its children. Those of other machines come by themselves, and are
waited for before anything is loaded; until then one may leave, and another come in its place. From
then on a rank that ends before it is told to takes the whole group with it: the others wait for it
in the middle of a sum, and what they hold is of no use without its part.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from llmplug.engine.ranks.link import Link
from llmplug.engine.ranks.messages import (
    BuildModel,
    Hello,
    Order,
    RankFailed,
    RankReady,
    Refusal,
    Report,
)
from llmplug.engine.ranks.network import Door
from llmplug.errors import EngineError, EngineUnavailable, LlmplugError, from_wire, to_wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llmplug.engine.ranks.messages import Call
    from llmplug.specs import Progress

STOP_S = 2.0  # for a rank to end by itself
# What a rank's end does to us is often seen before it has ended.
LOSS_S = 1.0
_decoder: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)
_hello_decoder = msgspec.msgpack.Decoder(Hello)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the ranks of other machines come to, and what they are told.

    Attributes:
        nodes: machines, with as many ranks each.
        host, port: an address of this machine.
        payload: for them, beside what their own config says.
    """

    nodes: int
    host: str
    port: int
    secret: str = field(repr=False)
    payload: bytes


class RankGroup:
    """The ranks beside this one. Whoever makes a group calls `close`."""

    def __init__(
        self,
        argv: Sequence[str],
        payload: bytes,
        *,
        num_ranks: int,
        store: Path,
        meeting: Meeting | None = None,
    ) -> None:
        """Start their processes, which import what they need and wait for `build`.

        Args:
            argv: the program that calls `follow`.
            payload: what this process itself was told.
            store: a file that is not there yet, in a folder that nobody else can open.
            meeting: of ranks on several machines; None: all are on this one.

        Raises:
            EngineError: the program cannot be run, or others cannot come to this machine.
        """
        self.num_ranks = num_ranks
        self.store = store
        self.host = None if meeting is None else meeting.host
        self._meeting = meeting
        self._ranks_per_node = num_ranks if meeting is None else num_ranks // meeting.nodes
        self._encoder = msgspec.msgpack.Encoder()
        self._lock = threading.Condition()
        self._num_ready = 0
        self._is_complete = meeting is None
        self._is_closing = False
        self._is_lost = False
        self._on_lost: Callable[[Exception], None] = lambda error: None
        self._watching: list[threading.Thread] = []
        self._others: dict[int, _Other] = {}  # by rank
        self._door: Door | None = None
        try:
            for rank in range(1, self._ranks_per_node):
                self._others[rank] = _start_rank(argv, rank)
            if meeting is not None:
                self._door = Door(meeting.host, meeting.port, meeting.secret, self._admit)
        except BaseException:
            self.close()
            raise
        for other in self._list_children():
            order = Order(other.rank, num_ranks, payload, str(store), self.host)
            with suppress(OSError):  # it has ended already: the watch tells
                other.link.send(self._encoder.encode(order))

    @property
    def pids(self) -> list[int]:
        """Of the processes on this machine, by rank from 1 on."""
        return [other.process.pid for other in self._list_children() if other.process]

    def watch(self, on_lost: Callable[[Exception], None]) -> None:
        """Have the end of a rank told, by another thread."""
        self._on_lost = on_lost
        for other in self._list_children():
            thread = threading.Thread(target=self._attend, args=(other,), daemon=True)
            self._watching.append(thread)
            thread.start()

    def gather(self, progress: Progress) -> None:
        """Wait for the ranks of other machines, for as long as it takes."""
        is_told = False
        with self._lock:
            while missing := set(range(1, self.num_ranks)) - set(self._others):
                progress("ranks", self.num_ranks - len(missing), self.num_ranks)
                if not is_told and self._meeting is not None:
                    is_told = True
                    _log.info(
                        "waiting at %s:%d for the ranks %s, which `llmplug join` starts elsewhere",
                        self._meeting.host,
                        self._meeting.port,
                        ", ".join(map(str, sorted(missing))),
                    )
                self._lock.wait()
            self._is_complete = True

    def build(self, num_pages: int, checkpoint: bytes) -> None:
        """Let all ranks load their parts; they wait for this one to do the same.

        Args:
            checkpoint: digest of what this rank loads, which theirs must have.
        """
        self.tell(BuildModel(num_pages, checkpoint))

    def await_ready(self) -> None:
        """Wait until every rank has built its model."""
        with self._lock:
            self._lock.wait_for(lambda: self._num_ready == self.num_ranks - 1)

    def tell(self, message: BuildModel | Call) -> None:
        """Send a message to every rank.

        Raises:
            EngineUnavailable: one is gone.
        """
        data = self._encoder.encode(message)
        for other in self._others.values():
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
        """End all ranks, and wait until those of this machine are gone."""
        with self._lock:
            self._is_closing = True
            self._lock.notify_all()
            others = list(self._others.values())
        if self._door is not None:
            self._door.close()
        for other in others:
            other.link.shut()
        for other in others:
            if other.process is not None:
                _await_end(other.process)
        for thread in self._watching:
            thread.join()
        for other in others:
            if other.process is not None:  # the others' threads close theirs
                other.link.close()
        self.store.unlink(missing_ok=True)

    def _list_children(self) -> list[_Other]:
        return [other for other in list(self._others.values()) if other.process is not None]

    def _admit(self, link: Link, host: str) -> None:
        """Take in a rank of another machine, or what it finds the others by."""
        data = link.receive()
        if data is None:
            link.close()
            return
        hello = _hello_decoder.decode(data)
        if hello.is_store:
            _serve_store(link, self.store, self.num_ranks)
            return
        try:
            other = self._seat(link, hello, host)
        except LlmplugError as error:
            with suppress(OSError):
                link.send(self._encoder.encode(Refusal(to_wire(error))))
            link.close()
            return
        _log.info("rank %d has come from %s", other.rank, other.where)
        self._attend(other)
        link.close()

    def _seat(self, link: Link, hello: Hello, host: str) -> _Other:
        """Give a rank its number, and its order.

        Raises:
            EngineError: there is no such rank, or it is here already.
        """
        meeting = self._meeting
        if meeting is None or not (
            1 <= hello.node < meeting.nodes and 0 <= hello.place < self._ranks_per_node
        ):
            raise EngineError(
                f"there is no place {hello.place} on node {hello.node}; rank 0 has other numbers "
                "for parallel.tensor or parallel.nodes"
            )
        rank = hello.node * self._ranks_per_node + hello.place
        other = _Other(rank, link, where=f"node {hello.node} ({host})")
        with self._lock:
            if self._is_closing:
                raise EngineError("rank 0 is about to end")
            if rank in self._others:
                raise EngineError(f"rank {rank} is here already, from {self._others[rank].where}")
            order = Order(rank, self.num_ranks, meeting.payload)
            link.send(self._encoder.encode(order))  # before anything else that it is told
            self._others[rank] = other
            self._lock.notify_all()
        return other

    def _attend(self, other: _Other) -> None:
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
                failure = _name_rank(report, other)
        end = other.describe_end(doing)
        if self._has_left_early(other, failure):
            return
        with self._lock:
            if type(failure) is EngineError and len(self._others) > 1:
                # Whatever it ran into may be what the end of a third one did to it.
                self._lock.wait_for(lambda: self._is_closing or self._is_lost, LOSS_S)
            if self._is_closing or self._is_lost:
                return
            self._is_lost = True
            self._lock.notify_all()
        self._on_lost(failure or EngineUnavailable(end))

    def _has_left_early(self, other: _Other, failure: LlmplugError | None) -> bool:
        """Free the place of one that came from elsewhere and left before all were there."""
        with self._lock:
            if other.process is not None or self._is_complete or self._is_closing:
                return False
            del self._others[other.rank]
            self._lock.notify_all()
        _log.warning("%s", failure or f"rank {other.rank} of {other.where} has left again")
        return True


@dataclass(slots=True)
class _Other:
    """One of the ranks.

    Attributes:
        process: its process; None: it is on another machine.
        where: that machine, in words.
    """

    rank: int
    link: Link
    process: subprocess.Popen[bytes] | None = None
    where: str = ""

    def describe_end(self, doing: str) -> str:
        """Say how it ended, which of another machine nobody knows; waits for one of this."""
        if self.process is None:
            return f"rank {self.rank} of {self.where} was lost while {doing}"
        status = self.process.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        return f"the process of rank {self.rank} {how} while {doing}"


def _start_rank(argv: Sequence[str], rank: int) -> _Other:
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(argv, stdin=theirs.fileno())  # noqa: S603 - our own program
        except OSError as error:
            ours.close()
            raise EngineError(f"cannot run {argv[0]}: {error}") from error
    return _Other(rank, Link(ours), process)


def _await_end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _serve_store(link: Link, path: Path, num_ranks: int) -> None:
    from llmplug.engine.ranks.collective import open_store  # torch, which this thread may wait for
    from llmplug.engine.ranks.store_link import serve_store

    serve_store(link, open_store(path, num_ranks))


def _name_rank(report: RankFailed, other: _Other) -> LlmplugError:
    error = report.error
    where = f" of {other.where}" if other.where else ""
    message = f"rank {other.rank}{where}: {error.message}"
    return from_wire(msgspec.structs.replace(error, message=message))
