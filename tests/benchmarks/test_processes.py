"""Processor time by role: what processes say of themselves, and what is read from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from benchmarks.processes import list_tree, read_cpu_by_role, read_cpu_s, read_rss

# Burns, says how much it has taken in all, and waits.
BURN = """
import sys, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
burn(float(sys.argv[1]))
"""
SAY = "print(time.process_time(), flush=True); input()"
TICKS_S = 0.05  # of rounding down four counters of 10 ms, and of what happens after the print


def start(code: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_time_is_what_the_process_says_itself() -> None:
    with start(BURN + SAY, "0.3") as process:
        assert process.stdout is not None
        said = float(process.stdout.readline())
        assert read_cpu_s(process.pid) == pytest.approx(said, abs=TICKS_S)
        process.kill()
    assert said >= 0.3
    assert read_cpu_s(process.pid) == 0
    assert read_rss(process.pid) == 0
    assert read_cpu_by_role(process.pid) == {}


def test_children_that_ended_count_too() -> None:
    code = BURN + "import subprocess; subprocess.run([sys.executable, '-c', sys.argv[2], '0.3'])\n"
    with start(code + SAY, "0", BURN) as process:
        assert process.stdout is not None
        said = float(process.stdout.readline())
        assert list_tree(process.pid) == [process.pid]
        assert read_cpu_s(process.pid) >= said + 0.3 - TICKS_S
        process.kill()


def test_our_engine_and_its_children_have_a_role_of_their_own() -> None:
    child = "import subprocess; subprocess.Popen([sys.executable, '-c', sys.argv[2], '0.2'], "
    child += "stdin=subprocess.PIPE)\n"
    # server -> engine -> the engine's child; only the last one works.
    engine = BURN + child + "print(flush=True); input()"
    server = BURN + (
        "import subprocess; subprocess.Popen([sys.executable, '-c', sys.argv[2], '0', sys.argv[3],"
        " '-m', 'llmplug', 'engine', 'socket'], stdin=subprocess.PIPE); input()"
    )
    with start(server, "0.1", engine, BURN + "input()") as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds: dict[str, float] = {}
        while seconds.get("engine", 0) < 0.2:  # the suite's limit ends it
            seconds = read_cpu_by_role(process.pid)
        assert set(seconds) == {"server", "engine"}
        assert 0.1 - TICKS_S <= seconds["server"] == pytest.approx(read_cpu_s(process.pid))
        for pid in reversed(list_tree(process.pid)):
            os.kill(pid, signal.SIGKILL)
