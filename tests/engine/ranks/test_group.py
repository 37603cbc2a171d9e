"""Rank 0 hears of the end of any other rank, says how it came, and leaves none behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import Queue
from threading import Thread

import pytest

from llmplug import CheckpointError, EngineError
from llmplug.engine.ranks import group as group_module
from llmplug.engine.ranks.group import RankGroup
from llmplug.errors import EngineUnavailable

ARGV = (sys.executable, str(Path(__file__).with_name("fake_rank.py")))
DEADLINE_S = 120.0


@contextmanager
def running(
    folder: Path, how: str = "", who: int = 2, **failure: str
) -> Iterator[tuple[RankGroup, Queue]]:
    """A group of three that has been told to build, and what is told of it."""
    options = {"how": how, "who": who, "journal": str(folder / "rank"), **failure}
    store = folder / "store"
    store.touch()
    told: Queue = Queue()
    group = RankGroup(ARGV, json.dumps(options).encode(), num_ranks=3, store=store)
    with closing(group):
        group.watch(told.put)
        group.build(num_pages=7, checkpoint=b"")
        yield group, told
    assert told.empty()
    assert not store.exists()
    assert not any(is_alive(pid) for pid in group.pids)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def test_all_are_ready_and_end_when_they_are_told_to(tmp_path: Path) -> None:
    with running(tmp_path) as (group, _):
        group.await_ready()
        assert len(group.pids) == 2
        assert [(tmp_path / f"rank{rank}").read_text() for rank in (1, 2)] == [
            str(pid) for pid in group.pids
        ]


@pytest.mark.parametrize("who", [1, 2])
def test_one_that_is_killed_is_named(tmp_path: Path, who: int) -> None:
    with running(tmp_path) as (group, told):
        group.await_ready()
        os.kill(group.pids[who - 1], signal.SIGKILL)
        error = told.get(timeout=DEADLINE_S)
        assert isinstance(error, EngineUnavailable)
        assert str(error) == f"the process of rank {who} was killed by signal 9 while serving"


def test_one_that_exits_while_it_loads_is_named(tmp_path: Path) -> None:
    with running(tmp_path, "exits") as (_, told):
        error = told.get(timeout=DEADLINE_S)
        assert str(error) == "the process of rank 2 exited with status 7 while loading"


def test_one_that_says_why_it_fails_is_believed(tmp_path: Path) -> None:
    failure = {"kind": "CheckpointError", "why": "tensor x is missing"}
    with running(tmp_path, "fails", who=1, **failure) as (_, told):
        error = told.get(timeout=DEADLINE_S)
        assert isinstance(error, CheckpointError)
        assert str(error) == "rank 1: tensor x is missing"


def test_one_that_runs_into_the_end_of_another_is_not_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_module, "LOSS_S", DEADLINE_S)
    failure = {"kind": "EngineError", "why": "connection closed"}
    with running(tmp_path, "fails", who=1, **failure) as (group, told):
        until(lambda: not is_alive(group.pids[0]))
        os.kill(group.pids[1], signal.SIGKILL)
        error = told.get(timeout=DEADLINE_S)
        assert "rank 2 was killed by signal 9" in str(error)


def test_whoever_sees_the_effect_waits_for_the_cause(tmp_path: Path) -> None:
    """And for ever: the process is about to end."""
    with running(tmp_path) as (group, told):
        group.await_ready()
        group.await_loss()  # none is lost, and a moment later that is known
        waiting = Thread(target=group.await_loss, daemon=True)
        waiting.start()
        os.kill(group.pids[0], signal.SIGKILL)
        told.get(timeout=DEADLINE_S)
        waiting.join(0.2)
        assert waiting.is_alive()


def test_one_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with running(tmp_path, "clings") as (group, _):
        group.await_ready()


def test_none_outlives_rank_0(tmp_path: Path) -> None:
    """However that ends: here by a signal that nobody can catch."""
    options = {"how": "", "who": 0, "journal": str(tmp_path / "rank")}
    program = f"""
import os, signal
from pathlib import Path
from llmplug.engine.ranks.group import RankGroup
group = RankGroup({ARGV!r}, {json.dumps(options).encode()!r}, num_ranks=3, store=Path("store"))
group.build(7, b"")
group.watch(lambda error: None)
group.await_ready()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=DEADLINE_S, check=False)
    assert done.returncode == -signal.SIGKILL
    pids = [int((tmp_path / f"rank{rank}").read_text()) for rank in (1, 2)]
    until(lambda: not any(is_alive(pid) for pid in pids))


def test_a_program_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot run /nowhere"):
        RankGroup(("/nowhere",), b"", num_ranks=2, store=tmp_path / "store")
