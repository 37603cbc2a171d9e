"""The parent of the HTTP process: what it passes on, what it starts again, and when it gives up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmplug.server.listener import open_listener
from llmplug.server.supervisor import (
    FIRST_BACKOFF_S,
    LAST_BACKOFF_S,
    MAX_FAILED_STARTS,
    STEADY_S,
    Lives,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and forks")

DEADLINE_S = 60.0
ROOT = Path(__file__).parents[2]
KILLED = -signal.SIGKILL


class Parent:
    """A supervisor in a process group of its own, and what its children say."""

    def __init__(self, folder: Path, *plan: str) -> None:
        self._journal = folder / "journal"
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tests.server.supervised", *plan],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=ROOT,
            env={**os.environ, "JOURNAL": str(self._journal)},
        )

    def read(self) -> str:
        """The next line that a child says; empty when all of them are gone."""
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def read_start(self) -> tuple[int, int]:
        """Wait for a child that listens; return its pid and its port."""
        pid, _, port = self.read().split()
        return int(pid), int(port)

    def end(self) -> tuple[int, str]:
        """Wait for the end; return its status, and what stands on stderr."""
        _, errors = self.popen.communicate(timeout=DEADLINE_S)
        return self.popen.returncode, errors

    @property
    def pids(self) -> list[int]:
        """Of all children so far."""
        return [int(line) for line in self._journal.read_text().splitlines()]


@contextmanager
def parent(folder: Path, *plan: str) -> Iterator[Parent]:
    process = Parent(folder, *plan)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.communicate(timeout=DEADLINE_S)
        until(lambda: not any(is_alive(pid) for pid in process.pids))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
    connection.sendall(b"hello")
    return connection


def hear(connection: socket.socket) -> str:
    with connection:
        return connection.recv(100).decode()


def test_a_connection_made_while_nobody_serves_is_answered_by_the_next_child(
    tmp_path: Path,
) -> None:
    """Those that the first child took are lost with it, those that waited for it are not."""
    with parent(tmp_path, "mute", "serve") as process:
        first, port = process.read_start()
        before = connect(port)
        os.kill(first, signal.SIGKILL)
        after = connect(port)
        second, same_port = process.read_start()
        assert (second != first, same_port) == (True, port)
        assert [hear(before), hear(after)] == [f"{second} hello"] * 2


def test_it_is_started_again_however_often(tmp_path: Path) -> None:
    with parent(tmp_path, "serve") as process:
        pids = []
        for _ in range(MAX_FAILED_STARTS + 1):
            pid, port = process.read_start()
            assert hear(connect(port)) == f"{pid} hello"
            pids.append(pid)
            os.kill(pid, signal.SIGKILL)
        assert len(set(pids)) == len(pids)


@pytest.mark.parametrize(
    ("word", "status", "errors"),
    [
        ("exit-2", 2, ""),
        ("exit-1", 1, ""),
        ("kill-11", 139, "llmplug: error: the HTTP process was killed by signal 11\n"),
    ],
)
def test_a_start_that_fails_is_not_tried_again(
    word: str, status: int, errors: str, tmp_path: Path
) -> None:
    with parent(tmp_path, word) as process:
        assert process.end() == (status, errors)
        assert len(process.pids) == 1


def test_it_gives_up_when_no_child_comes_up_any_more(tmp_path: Path) -> None:
    """The status is that of the last one."""
    with parent(tmp_path, "serve", "exit-5", "kill-9", "exit-2") as process:
        os.kill(process.read_start()[0], signal.SIGKILL)
        assert process.end() == (2, "")
        assert len(process.pids) == 1 + MAX_FAILED_STARTS


def test_one_good_start_forgives_the_failed_ones(tmp_path: Path) -> None:
    failures = ["exit-2"] * (MAX_FAILED_STARTS - 1)
    with parent(tmp_path, "serve", *failures, "serve") as process:
        for _ in range(2):
            os.kill(process.read_start()[0], signal.SIGKILL)
        assert hear(connect(process.read_start()[1])).endswith("hello")


def test_signals_are_passed_on_and_the_end_that_they_ask_for_is_the_end(tmp_path: Path) -> None:
    with parent(tmp_path, "serve") as process:
        process.read_start()
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            process.popen.send_signal(number)
            assert process.read() == f"signal {number}"
        assert process.end() == (3, "")
        assert len(process.pids) == 1


def test_an_interrupt_from_the_terminal_comes_to_the_child_once(tmp_path: Path) -> None:
    """A terminal sends it to all processes in front: twice would mean not to drain."""
    with parent(tmp_path, "serve") as process:
        process.read_start()
        os.killpg(process.popen.pid, signal.SIGINT)
        assert process.read() == f"signal {signal.SIGINT}"
        process.popen.terminate()
        assert process.read() == f"signal {signal.SIGTERM}"


def test_a_stop_between_two_children_is_heard(tmp_path: Path) -> None:
    with parent(tmp_path, "serve", *["exit-2"] * (MAX_FAILED_STARTS - 1), "serve") as process:
        os.kill(process.read_start()[0], signal.SIGKILL)
        until(lambda: len(process.pids) > 1)  # it waits now, for longer each time
        process.popen.terminate()
        status, errors = process.end()
        assert (status, errors) in {(128 + signal.SIGTERM, ""), (2, "")}
        assert len(process.pids) < MAX_FAILED_STARTS


def test_a_stop_that_comes_with_a_death_is_a_stop(tmp_path: Path) -> None:
    with parent(tmp_path, "serve") as process:
        child, _ = process.read_start()
        process.popen.send_signal(signal.SIGSTOP)  # so that it learns of both at once
        os.kill(child, signal.SIGKILL)
        until(lambda: not is_alive(child))
        process.popen.terminate()
        process.popen.send_signal(signal.SIGCONT)
        assert process.end() == (128 + signal.SIGKILL, "")
        assert len(process.pids) == 1


def test_an_orderly_end_of_the_child_alone_is_the_end(tmp_path: Path) -> None:
    with parent(tmp_path, "serve", "exit-0") as process:
        os.kill(process.read_start()[0], signal.SIGKILL)
        assert process.end() == (0, "")


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    with parent(tmp_path, "serve") as process:
        pid, _ = process.read_start()
        process.popen.kill()
        assert process.read() == f"signal {signal.SIGTERM} orphan"
        until(lambda: not is_alive(pid))


def test_waits_grow_and_are_forgotten_after_a_steady_life() -> None:
    lives = Lives()
    waits = [lives.plan_restart(KILLED, ready_s=1.0) for _ in range(9)]
    assert waits[:3] == [FIRST_BACKOFF_S, 2 * FIRST_BACKOFF_S, 4 * FIRST_BACKOFF_S]
    assert waits[-1] == LAST_BACKOFF_S
    assert lives.plan_restart(KILLED, ready_s=STEADY_S) == FIRST_BACKOFF_S
    assert lives.plan_restart(KILLED, ready_s=1.0) == FIRST_BACKOFF_S


# --- the listening socket -----------------------------------------------------------------------
class Keeper:
    """What a child knows of its parent, as far as sockets go."""

    def __init__(self, listener: socket.socket | None = None) -> None:
        self.listener = listener
        self.kept: list[socket.socket] = []

    def keep(self, listener: socket.socket) -> None:
        self.kept.append(listener)


def test_a_listener_is_kept_and_found_again() -> None:
    keeper: Any = Keeper()
    with open_listener("127.0.0.1", 0, keeper) as listener:
        assert keeper.kept == [listener]
        port = listener.getsockname()[1]
        for host, wanted in (("127.0.0.1", 0), ("127.0.0.1", port), ("localhost", port)):
            later: Any = Keeper(listener)
            assert open_listener(host, wanted, later) is listener
            assert later.kept == []


def test_a_config_that_names_another_address_is_obeyed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        wanted = free.getsockname()[1]
    before = open_listener("127.0.0.1", 0, None)
    keeper: Any = Keeper(before)
    with open_listener("127.0.0.1", wanted, keeper) as listener:
        assert listener.getsockname() == ("127.0.0.1", wanted)
        assert keeper.kept == [listener]
    assert before.fileno() == -1  # else it would be served for as long as this process lives
