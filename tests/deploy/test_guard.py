"""A guarded program ends with whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from llmplug.deploy import guard

DEADLINE_S = 60.0
# Says who it is, then waits; ends with 7 when it is asked to.
WAITER = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(os.getpid(), flush=True)
while True:
    signal.pause()
"""


def start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", guard.__file__, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


@pytest.fixture
def guarded() -> Iterator[subprocess.Popen[bytes]]:
    with start(sys.executable, "-c", WAITER) as process:
        yield process
        process.kill()


def test_it_ends_when_nobody_holds_its_stdin(guarded: subprocess.Popen[bytes]) -> None:
    pid = int(guarded.stdout.readline())
    guarded.stdin.close()
    assert guarded.wait(DEADLINE_S) == 7
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of it")
def test_it_ends_when_its_guard_is_killed(guarded: subprocess.Popen[bytes]) -> None:
    guarded.stdout.readline()
    guarded.kill()
    assert guarded.stdout.read() == b""  # when nobody holds the other end any more


def test_signals_are_passed_on(guarded: subprocess.Popen[bytes]) -> None:
    guarded.stdout.readline()
    guarded.send_signal(signal.SIGTERM)
    assert guarded.wait(DEADLINE_S) == 7


def test_its_status_is_that_of_the_program() -> None:
    with start(sys.executable, "-c", "raise SystemExit(3)") as process:
        assert process.wait(DEADLINE_S) == 3
    with start(sys.executable, "-c", "import os; os.kill(os.getpid(), 9)") as process:
        assert process.wait(DEADLINE_S) == 128 + 9
