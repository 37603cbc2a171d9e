"""Stages add up to the whole, in the order in which they began."""

from __future__ import annotations

import pytest

from llmplug.engine import stage_clock
from llmplug.engine.stage_clock import StageClock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; a test sets its one element."""
    time = [100.0]
    monkeypatch.setattr(stage_clock.time, "monotonic", lambda: time[0])
    return time


def test_progress_begins_stages_and_is_passed_on(now: list[float]) -> None:
    reports: list[tuple[str, int, int]] = []
    clock = StageClock("imports")
    report = clock.watch(lambda stage, done, total: reports.append((stage, done, total)))
    now[0] += 2.0
    clock.begin("files")
    now[0] += 0.5
    for done in range(3):
        report("weights", done, 2)
        now[0] += 1.0
    report("engine", 0, 1)
    now[0] += 0.25
    assert list(clock.end().items()) == [
        ("imports", 2.0),
        ("files", 0.5),
        ("weights", 3.0),
        ("engine", 0.25),
    ]
    assert reports == [("weights", 0, 2), ("weights", 1, 2), ("weights", 2, 2), ("engine", 0, 1)]


def test_a_stage_that_comes_back_has_the_sum(now: list[float]) -> None:
    clock = StageClock("kernels")
    for stage in ("weights", "kernels", "weights"):
        now[0] += 1.0
        clock.begin(stage)
    now[0] += 1.0
    assert clock.end() == {"kernels": 2.0, "weights": 2.0}
