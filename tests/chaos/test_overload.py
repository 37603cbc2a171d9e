"""A crowd of five times what a server can do: as much is answered as before, the rest is refused.

How much and how soon is measured by `python -m benchmarks.overload`. Here others may take the
processors meanwhile: what is asserted is processor time, and the order in which answers begin.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.crowd import Answer
from benchmarks.overload import (
    ANSWERED,
    NUM_RUNNING,
    NUM_WAITING,
    REFUSED,
    Call,
    Load,
    describe,
    judge,
    run,
)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc")
    return run(tmp_path_factory.mktemp("overload"), seconds=6.0, rounds=2, factor=5.0)


@pytest.mark.slow
def test_every_request_is_answered_or_told_when_to_come_back(line: dict[str, Any]) -> None:
    assert line["wrong"] == {}
    assert line["refused"] > line["answered"] > 0


@pytest.mark.slow
def test_a_flood_leaves_the_server_its_capacity(line: dict[str, Any]) -> None:
    """One that worked on what it refuses, or on all at once, would have little left for answers."""
    assert line["answer_cpu_ms"]["flooded"] < line["answer_cpu_ms"]["busy"] / 0.8


@pytest.mark.slow
def test_who_is_admitted_starts_in_turn_and_who_is_not_knows_at_once(line: dict[str, Any]) -> None:
    # Whoever waits already, and those that run, whose first words may be on their way. With a
    # queue that has no bound it would be half of all answers.
    assert line["waited_for"]["p50"] <= NUM_WAITING + NUM_RUNNING
    assert line["refusal_s"]["p50"] < line["ttft_s"]["p50"] / 2
    assert line["refusal_cpu_ms"]["server"] < line["answer_cpu_ms"]["busy"] / 10


def test_the_numbers_of_a_line() -> None:
    def make_call(outcome: str, first_s: float, ended: float) -> Call:
        return Call(outcome, first_s, first_s + 1.0, ended)

    busy = Load(0.0, 10.0, [make_call(ANSWERED, 0.5, float(t)) for t in range(1, 11)])
    late = make_call(ANSWERED, 3.0, 10.5)  # it came after the flood, and is no part of its rate
    flooded = Load(0.0, 10.0, [*busy.calls[1:], late, *[make_call(REFUSED, 0.01, 5.0)] * 40])
    refused = Load(0.0, 2.0, [make_call(REFUSED, 0.01, 5.0)] * 10)
    busy.cpu_s = flooded.cpu_s = {"server": 1.0, "generator": 0.5}
    refused.cpu_s = {"server": 0.002, "generator": 0.001}
    line = describe([busy, busy], [flooded], refused)
    assert (line["capacity_per_s"], line["goodput_per_s"]) == (1.0, 0.9)
    assert (line["answered"], line["refused"], line["wrong"]) == (10, 40, {})
    assert line["ttft_s"]["max"] == 3.0
    assert line["waited_for"]["max"] == 3  # the one of 10.5 was sent at 6.5, and began at 9.5
    assert line["refusal_s"]["p99"] == 0.01
    assert line["answer_cpu_ms"] == {"busy": 100.0, "flooded": 100.0}
    assert line["cores"]["flooded"] == {"generator": 0.05, "server": 0.1}
    assert line["refusal_cpu_ms"] == {"server": 0.2, "generator": 0.1}
    assert line["request_cpu_ms"] == {"generator": 10.0}


@pytest.mark.parametrize(
    ("status", "headers", "body", "outcome"),
    [
        (200, {}, b'data: {"finish_reason":"length"}\n\ndata: [DONE]\n\n', ANSWERED),
        (200, {}, b'data: {"error":{}}\n\ndata: [DONE]\n\n', "broken stream"),
        (200, {}, b'data: {"finish_reason":"length"}\n\n', "broken stream"),
        (429, {"retry-after": "1"}, b"{}", REFUSED),
        (429, {}, b"{}", "429"),
        (503, {"retry-after": "1"}, b"{}", "503"),
    ],
)
def test_what_counts_as_which(
    status: int, headers: dict[str, str], body: bytes, outcome: str
) -> None:
    assert judge(Answer(status, headers, body, 0.0, 0.0)).startswith(outcome)
