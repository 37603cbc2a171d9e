"""Measure a server over HTTP: `python -m benchmarks.serve --help`.

One JSON line first for the machine, the server and the probe, then one for each workload and
number of clients. The server is ours (`--config`), any other with the same API (`--command`), or
one that runs already (`--url`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.client import Job, run_clients
from benchmarks.cost import ModelCost, find_limit, read_cost
from benchmarks.machine import describe_machine
from benchmarks.probe import Probe, probe
from benchmarks.report import summarise_row, summarise_run
from benchmarks.server import ServerProcess, find_free_port, first_model, wait_ready
from benchmarks.workload import WORKLOADS, Workload, make_prompts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WARM_UP = Workload("warm-up", 64, 16)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--config", type=Path, help="start llmplug with this file")
    target.add_argument("--command", help="start this server; {port} is filled in")
    target.add_argument("--url", help="measure the server at http://host:port")
    parser.add_argument("--model", help="name of the model; the first one listed if left out")
    parser.add_argument(
        "--workload", action="append", choices=sorted(WORKLOADS), help="default: random-128-128"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, help="of a run; default: 2 a client, at least 4")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--client-processes", type=int, default=1)
    parser.add_argument("--ready-timeout", type=float, default=600, metavar="S")
    parser.add_argument("--probe-device", default="cpu", help="cpu, cuda")
    parser.add_argument(
        "--cost", type=Path, metavar="CONFIG", help="config of the same model, for the limit"
    )
    return parser.parse_args(argv)


def start_command(args: argparse.Namespace, port: int) -> list[str]:
    """Return the command line of the server under test."""
    if args.command:
        return shlex.split(args.command.replace("{port}", str(port)))
    program = Path(sys.executable).with_name("llmplug")
    return [str(program), "serve", "--config", str(args.config), "--set", f"server.port={port}"]


@contextlib.contextmanager
def open_target(args: argparse.Namespace, log: Path) -> Iterator[tuple[str, ServerProcess | None]]:
    """Yield the server's address, and its process if it is started here."""
    if args.url:
        url = args.url.rstrip("/").removesuffix("/v1")
        wait_ready(url, args.ready_timeout)
        yield url, None
        return
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    with ServerProcess(start_command(args, port), url, log, args.ready_timeout) as process:
        yield url, process


def find_cost(config_path: Path | None) -> ModelCost | None:
    """Plan the model of a config and count what it takes; None without a config."""
    if config_path is None:
        return None
    from llmplug.assemble import load_registry, plan_model
    from llmplug.config import load

    config = load(config_path)
    plan = plan_model(config.models[0], load_registry(config), lambda stage, done, total: None)
    return read_cost(plan)


def warm_up(url: str, model: str, clients: int) -> float:
    """Send a few requests that are not counted; return how many seconds they took."""
    started = time.monotonic()
    prompts = make_prompts(WARM_UP, clients, seed=0)
    timings = run_clients(Job(url, model, prompts, WARM_UP.output_tokens, clients))
    failures = {timing.failure for timing in timings if timing.failure}
    if failures:
        raise RuntimeError(f"the server does not serve: {'; '.join(sorted(failures))}")
    return time.monotonic() - started


def measure_row(
    args: argparse.Namespace, url: str, model: str, workload: Workload, clients: int
) -> list[Any]:
    """Run one workload several times, with prompts that no run before it had."""
    count = args.requests or max(4, 2 * clients)
    runs = []
    for run in range(args.runs):
        prompts = make_prompts(workload, count, seed=1_000_000 * args.seed + 1_000 * clients + run)
        job = Job(url, model, prompts, workload.output_tokens, clients)
        runs.append(summarise_run(run_clients(job, args.client_processes)))
    return runs


def print_row(**fields: Any) -> None:
    """Print one JSON line at once, so that nothing is lost when a later row fails."""
    print(json.dumps(fields), flush=True)


def measure(args: argparse.Namespace, machine: Probe, cost: ModelCost | None, log: Path) -> bool:
    """Measure every row; return whether all requests succeeded."""
    is_good = True
    with open_target(args, log) as (url, process):
        model = args.model or first_model(url)
        print_row(
            kind="setup",
            target=args.command or args.url or str(args.config),
            model=model,
            machine=describe_machine(),
            probe=dataclasses.asdict(machine),
            cost=dataclasses.asdict(cost) if cost else None,
            ready_s=round(process.ready_s, 2) if process else None,
            warm_up_s=round(warm_up(url, model, max(args.clients)), 2),
            arguments=" ".join(sys.argv[1:]),
        )
        for name in args.workload or ["random-128-128"]:
            workload = WORKLOADS[name]
            for clients in args.clients:
                runs = measure_row(args, url, model, workload, clients)
                limit = find_limit(cost, machine, workload, clients) if cost else None
                row = summarise_row(runs, limit)
                is_good &= not row["failures"]
                rss = round(process.peak_rss_bytes / 2**20) if process else None
                print_row(kind="row", workload=name, clients=clients, **row, peak_rss_mib=rss)
    return is_good


def main() -> int:
    """Probe, start, measure, print; 1 if a request failed."""
    args = parse_arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that the server stops
    cost = find_cost(args.cost or args.config)
    machine = probe(args.probe_device)
    with tempfile.TemporaryDirectory(prefix="llmplug-bench-") as folder:
        return 0 if measure(args, machine, cost, Path(folder) / "server.log") else 1


if __name__ == "__main__":
    sys.exit(main())
