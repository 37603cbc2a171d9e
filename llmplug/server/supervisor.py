"""The process that `llmplug serve` starts as: it keeps the listening socket, and a child serves.

The child opens the socket, as only it reads the config, and hands it up. When it dies, connections
wait in the socket's queue, and the next child goes on with them. The parent imports nothing that
is large, so that little can go wrong with it, and forks before any thread runs.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

# What the parent gets is meant for the child. Ctrl-C comes to the parent alone: the child is in a
# session of its own, else it would hear it twice.
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STOPS = frozenset({signal.SIGTERM, signal.SIGINT})
# Exit statuses that say that nothing is wrong: done, interrupted, nobody reads what it writes.
ORDERLY = (0, 130, 141)
FIRST_BACKOFF_S = 0.1  # doubled with each death, up to the last
LAST_BACKOFF_S = 8.0
STEADY_S = 20.0  # a child that was ready for so long does not owe its end to its start
MAX_FAILED_STARTS = 5  # in succession, of children after one that was ready
_LISTENING, _READY = b"L", b"R"  # what a child says; a descriptor comes with the first


class Supervisor:
    """The parent, as the child that serves knows it.

    Attributes:
        listener: what an earlier child opened; None: there was none.
        last_end: how the child before this one ended; empty: there was none.
        is_gone: the parent has ended; SIGTERM follows.
    """

    def __init__(
        self, control: socket.socket, listener: socket.socket | None, last_end: str
    ) -> None:
        self.listener = listener
        self.last_end = last_end
        self.is_gone = False
        self._control = control
        threading.Thread(target=self._watch, name="supervisor", daemon=True).start()

    def keep(self, listener: socket.socket) -> None:
        """Have a listening socket kept open for whoever comes after us."""
        socket.send_fds(self._control, [_LISTENING], [listener.fileno()])

    def tell_ready(self) -> None:
        """Say that this start went well: from now on a death is followed by another start."""
        self._control.send(_READY)

    def _watch(self) -> None:
        """End this process when its parent is gone, as nobody could end it by its name then."""
        with suppress(ConnectionResetError):  # it had not read all that we said
            self._control.recv(1)  # it says nothing; this returns when there is none
        self.is_gone = True
        os.kill(os.getpid(), signal.SIGTERM)


@dataclass(slots=True)
class Lives:
    """How the children ended so far, and what follows from it."""

    has_been_ready: bool = False  # one of them
    num_deaths: int = 0  # in succession, since one was ready for long
    num_failed_starts: int = 0  # in succession

    def plan_restart(self, status: int, ready_s: float | None) -> float | None:
        """Return the seconds to wait before the next child starts; None: there is to be none.

        Args:
            status: exit status of the one that ended, negative for a signal.
            ready_s: for how long it was ready; None: it never was.
        """
        self.has_been_ready |= ready_s is not None
        self.num_failed_starts = self.num_failed_starts + 1 if ready_s is None else 0
        if status in ORDERLY or not self.has_been_ready:
            return None
        if self.num_failed_starts >= MAX_FAILED_STARTS:
            return None
        self.num_deaths = 0 if (ready_s or 0.0) >= STEADY_S else self.num_deaths + 1
        return min(FIRST_BACKOFF_S * 2.0 ** max(0, self.num_deaths - 1), LAST_BACKOFF_S)


@dataclass(slots=True)
class _Relay:
    """Passes signals on to the child of the moment."""

    child: int = 0
    passed_on: set[int] = field(default_factory=set)

    def install(self) -> None:
        for number in PASSED_ON:
            signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.passed_on.add(number)
        if self.child:
            with suppress(ProcessLookupError):  # it has just been buried
                os.kill(self.child, number)

    @property
    def has_stopped(self) -> bool:
        """Whether somebody asked for the end."""
        return bool(self.passed_on & STOPS)


def supervise(serve: Callable[[Supervisor], int]) -> int:
    """Run `serve` in a child, and in another one when that dies after it had been ready.

    Returns in both processes: in a child what `serve` returned, in the parent the exit status of
    the last child, 128 and its number for a signal.
    """
    relay, lives = _Relay(), Lives()
    listener: socket.socket | None = None
    wait_s: float | None = 0.0
    how = ""
    relay.install()
    while wait_s is not None:
        ours, theirs = socket.socketpair()
        with _signals_held():
            if relay.has_stopped:  # between two children
                return 128 + signal.SIGTERM
            relay.child = os.fork()
            if not relay.child:
                _leave_parent()
        if not relay.child:
            ours.close()
            # Here and not in the parent, which would have to be woken up by a signal.
            time.sleep(wait_s)
            return serve(Supervisor(theirs, listener, how))
        theirs.close()
        listener, ready_at = _listen_to_child(ours, listener)
        ready_s = None if ready_at is None else time.monotonic() - ready_at
        status = _wait(relay.child)
        relay.child = 0
        how = _describe(status)
        is_end = relay.has_stopped or -status in relay.passed_on
        wait_s = None if is_end else lives.plan_restart(status, ready_s)
    if status < 0 and not is_end:
        sys.stderr.write(f"llmplug: error: the HTTP process {how}\n")
    return status if status >= 0 else 128 - status


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let signals wait: between a fork and what follows nobody could say whom they are for."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _leave_parent() -> None:
    """Become a process of its own, with signals as a new process has them."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what it asks for can wait for the start


def _listen_to_child(
    control: socket.socket, listener: socket.socket | None
) -> tuple[socket.socket | None, float | None]:
    """Hear a child out; return the socket to keep, and when it said that it is ready."""
    ready_at = None
    with control:
        while True:
            word, descriptors, _, _ = socket.recv_fds(control, 1, maxfds=1)
            if word == _READY:
                ready_at = time.monotonic()
            elif word == _LISTENING:
                if listener is not None:
                    listener.close()
                listener = socket.socket(fileno=descriptors[0])
                listener.set_inheritable(False)  # else whatever a child runs would hold the port
            else:
                return listener, ready_at


def _wait(pid: int) -> int:
    """Return the exit status of a child that has ended; bury whatever else has (as process 1)."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _describe(status: int) -> str:
    return f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
