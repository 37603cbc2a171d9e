"""Whole measurements of stand-ins, one and several."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cost import ModelCost
from benchmarks.probe import Probe
from benchmarks.processes import list_tree, read_rss
from benchmarks.report import ImpossibleNumberError
from benchmarks.serve import Measurement, parse_arguments

STAND_IN = Path(__file__).with_name("stand_in.py")
# A second for each request, however long it took.
METRICS = """# TYPE llmplug_engine_seconds counter
llmplug_engine_seconds_total{model="m",phase="record"} {requests}
"""
Lines = list[dict[str, Any]]


def command(**options: Any) -> str:
    return shlex.join([sys.executable, str(STAND_IN), "{port}", json.dumps(options)])


@pytest.fixture(autouse=True)
def probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of which nothing is known to be impossible; nor is anything measured."""
    monkeypatch.setattr("benchmarks.serve.probe", lambda device: Probe(1e6, 1e9))


@pytest.fixture
def measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*argv: str) -> tuple[bool, Lines]:
        defaults = ["--runs=1", "--requests=2", "--clients=1", "--idle=0", "--ready-timeout=60"]
        measurement = Measurement(parse_arguments([*defaults, *argv]), tmp_path / "log")
        is_good = measurement.measure_all()
        return is_good, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def of(lines: Lines, kind: str, **wanted: Any) -> Lines:
    return [line for line in lines if {"kind": kind, **wanted}.items() <= line.items()]


def test_servers_take_turns_and_are_compared(measure: Any) -> None:
    is_good, lines = measure(
        *("--command", command(burn_s=0.01), "--peer", f"slow={command(burn_s=0.2)}"),
        *("--peer", f"broken={sys.executable} -c raise(SystemExit('no_such_model'))"),
        *("--rounds=2", "--clients", "1", "2", "--workload", "random-128-128"),
        *("--workload", "prefill-512", "--idle", "0.2"),
    )
    assert is_good
    starts = [(line["round"], line["server"]) for line in of(lines, "setup")]
    assert starts == [(0, "server"), (0, "slow"), (1, "server"), (1, "slow")]
    for setup in of(lines, "setup"):
        assert setup["model"] == "stand-in"
        assert setup["ready_s"] > 0
        assert {"cpu", "cores", "commit", "versions"} <= setup["machine"].keys()

    failures = of(lines, "failure", server="broken")
    assert [line["round"] for line in failures] == [0, 1]
    assert "no_such_model" in failures[0]["error"]

    rows = [(row["workload"], row["clients"], row["server"]) for row in of(lines, "row")]
    assert rows == [
        (workload, clients, server)
        for workload, clients in [("random-128-128", 1), ("random-128-128", 2), ("prefill-512", 1)]
        for server in ("server", "slow")
    ]
    for row in of(lines, "row"):
        assert row["failures"] == {}
        assert row["ttft_ms"]["p50"] > 0
        assert row["peak_rss_mib"] > 50
        assert row["hit_rate"] == 0
        # Both rounds: 2 runs of 2 requests, in the server's own process.
        assert row["cpu_s"]["server"] >= 4 * (0.01 if row["server"] == "server" else 0.2) - 0.05
        assert 0 < row["http_share"]["median"] < 1.2
    (part,) = of(lines, "part", server="slow", clients=1, workload="prefill-512")[:1]
    (whole,) = of(lines, "row", server="slow", clients=1, workload="prefill-512")
    assert whole["wall_s"] > part["wall_s"]
    assert whole["prefill_tok_s"]["median"] < 512 / 0.2

    assert [line["peer"] for line in of(lines, "ratio")] == ["slow"] * 3
    for ratio in of(lines, "ratio"):
        assert ratio["output_tok_s"]["median"] > 1
        assert ratio["ttft"]["median"] < 1
        assert ratio["output_tok_s"]["min"] <= ratio["output_tok_s"]["max"]
    idle = of(lines, "idle", server="slow")
    assert len(idle) == 2
    assert all(0 <= line["percent"] < 50 for line in idle)


def test_prefix_that_is_shared_is_cached_before_it_counts(measure: Any) -> None:
    _, lines = measure(
        *("--command", command(), "--peer", f"none={command(cache=False)}", "--clients", "2"),
        *(f"--workload=shared-{share}" for share in (0, 50, 95)),
    )
    rates = {row["workload"]: row["hit_rate"] for row in of(lines, "row", server="server")}
    assert rates == {"shared-0": 0, "shared-50": 0.5, "shared-95": round(976 / 1024, 4)}
    assert {row["hit_rate"] for row in of(lines, "row", server="none")} == {None}
    assert len(of(lines, "ratio", peer="none")) == 3


def test_prompts_that_a_server_knows_are_refused(measure: Any, tmp_path: Path) -> None:
    """A server that runs already has seen the prompts of the same seed."""
    port_file = tmp_path / "port"
    code = (
        "import sys, runpy, pathlib, socket; s = socket.create_server(('127.0.0.1', 0)); "
        "port = str(s.getsockname()[1]); s.close(); sys.argv[1] = port; "
        "pathlib.Path(sys.argv.pop()).write_text(port); "
        f"runpy.run_path({str(STAND_IN)!r}, run_name='__main__')"
    )
    argv = [sys.executable, "-c", code, "0", "{}", str(port_file)]
    with subprocess.Popen(argv) as process:
        try:
            deadline = time.monotonic() + 30
            while not port_file.exists() or not port_file.read_text():
                assert time.monotonic() < deadline
            url = f"http://127.0.0.1:{port_file.read_text()}"
            measure("--url", url)
            with pytest.raises(ImpossibleNumberError, match="knows these prompts"):
                measure("--url", url)
            is_good, lines = measure("--url", url, "--seed", "1")
        finally:
            children = list_tree(process.pid)[1:]
            process.kill()
            assert len(children) == 2  # they end when their input does
    assert is_good
    (row,) = of(lines, "row")
    assert "cpu_s" not in row
    assert row["peak_rss_mib"] is None


def test_only_requests_to_the_first_server_must_succeed(measure: Any) -> None:
    argv = ["--clients", "4", "--requests", "4"]
    is_good, lines = measure("--command", command(), "--peer", f"flaky={command(refuse=3)}", *argv)
    assert is_good
    (row,) = of(lines, "row", server="flaky")
    assert sum(row["failures"].values()) == 1
    (setup,) = of(lines, "setup", server="flaky")
    assert setup["warm_up_failures"] == 1
    (ratio,) = of(lines, "ratio")
    assert (ratio["failures"], ratio["peer_failures"]) == (0, 1)
    is_good, _ = measure("--command", command(refuse=3), *argv)
    assert not is_good


def test_peer_that_serves_nothing_is_reported(measure: Any) -> None:
    _, lines = measure("--command", command(), "--peer", f"no={command(refuse=1)}")
    (failure,) = of(lines, "failure", server="no")
    assert "out of memory" in failure["error"]
    assert of(lines, "ratio") == []


def test_peer_is_spoken_to_as_it_understands(measure: Any) -> None:
    known = ["model", "messages", "max_tokens", "stream", "min_tokens"]
    peer = command(known=known, api="chat", done=False, cache=False)
    extra = ["--peer-api", "p=chat", "--peer-field", "p=min_tokens=128"]
    for field in ("temperature", "ignore_eos", "stream_options"):
        extra += ["--peer-field", f"p={field}=null"]
    _, lines = measure("--command", command(), "--peer", f"p={peer}", *extra)
    (row,) = of(lines, "row", server="p")
    assert row["failures"] == {}
    assert row["prompt_tokens"] == 128
    _, lines = measure("--command", command(), "--peer", f"p={peer}")
    assert "not served: tokens" in of(lines, "failure")[0]["error"]


def test_impossible_number_of_a_peer_is_left_out_and_of_ours_ends_all(
    measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A thousand seconds to read the weights once: nobody can be as fast as the stand-in.
    heavy = ModelCost(weight_bytes=10**18, body_params=1, head_params=1)
    monkeypatch.setattr(
        "benchmarks.serve.find_cost", lambda config, sets: heavy if config else None
    )
    peer = ["--peer", f"p={command()}", "--peer-cost", "p=c.yaml"]
    is_good, lines = measure("--command", command(), *peer)
    assert is_good
    assert "of the machine's throughput" in of(lines, "failure", server="p")[0]["error"]
    assert of(lines, "row", server="p") == of(lines, "ratio") == []
    with pytest.raises(ImpossibleNumberError):
        measure("--command", command(), "--cost", "c.yaml")


def test_machine_is_probed_again_before_a_number_is_called_impossible(
    measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour that is busy only while the machine is probed makes it look slow."""
    found = [Probe(1e-9, 1e-9), Probe(1e9, 1e9)]
    monkeypatch.setattr("benchmarks.serve.probe", lambda device: found.pop(0))
    light = ModelCost(weight_bytes=10**6, body_params=10**6, head_params=1)
    monkeypatch.setattr("benchmarks.serve.find_cost", lambda config, sets: light)
    _, lines = measure("--command", command(), "--cost", "c.yaml")
    assert [line["kind"] for line in lines] == ["setup", "probe", "row"]
    assert lines[1]["bandwidth_gb_s"] == 1e9
    assert lines[2]["limit"]["throughput_ratio"] < 1


def test_engine_says_what_its_loop_took(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our server is asked for its metrics before and after each run, here a stand-in is."""
    argv = ["--command", command(metrics=METRICS, burn_s=0.1), "--requests=3"]
    (target,) = parse_arguments(argv).targets
    ours = replace(target, is_ours=True)
    monkeypatch.setattr("benchmarks.serve.make_targets", lambda args: [ours])
    _, lines = measure(*argv)
    (row,) = of(lines, "row")
    assert set(row["engine_share"]) == {"record", "host"}
    assert row["engine_share"]["record"] * row["wall_s"] == pytest.approx(3, rel=0.02)
    assert row["engine_share"]["host"] == row["engine_share"]["record"]


def test_module_prints_rows_and_nothing_else() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.serve", "--runs=2", "--requests=3", "--idle=0.1"),
            *("--clients", "1", "2", "--command", command(version="0.0")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    setup, *rows, idle = [json.loads(line) for line in done.stdout.splitlines()]
    assert setup["version"] == "0.0"
    assert setup["probe"]["bandwidth_gb_s"] > 0
    assert setup["probe"]["gemm_gflop_s"] > 0
    assert [row["clients"] for row in rows] == [1, 2]
    assert idle["idle_s"] == 0.1


def test_measurement_that_is_stopped_stops_its_server() -> None:
    argv = [sys.executable, "-m", "benchmarks.serve", "--requests=1000000"]
    with subprocess.Popen([*argv, "--command", command()], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["kind"] == "setup"
        pids = list_tree(process.pid)
        process.terminate()
        assert process.wait(60) == 143
    assert len(pids) >= 4  # the harness, the server and the server's children
    # An orphan that has ended is a zombie until whoever adopted it looks: it holds no memory.
    deadline = time.monotonic() + 20
    while any(read_rss(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in pids if read_rss(pid)] == []
