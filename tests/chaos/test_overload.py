"""A crowd of five times what a server can do: as much is answered as before, the rest is refused.

How much and how soon is measured by `python -m benchmarks.overload`; the bounds here leave room for
a machine that is busy with something else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.crowd import Answer
from benchmarks.overload import ANSWERED, REFUSED, Call, Load, describe, judge, run

SLACK = 3.0  # times what holds on a machine of one's own


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
    """One that worked on what it refuses, or on all at once, would be left with little."""
    assert line["goodput_share"] > 0.5


@pytest.mark.slow
def test_who_is_admitted_starts_soon_and_who_is_not_knows_at_once(line: dict[str, Any]) -> None:
    assert line["ttft_s"]["p99"] < SLACK * line["ttft_bound_s"]
    assert line["refusal_s"]["p50"] < SLACK * 0.1


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
    assert line["refusal_s"]["p99"] == 0.01
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
