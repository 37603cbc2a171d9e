"""Measure servers over HTTP: `python -m benchmarks.serve --help`.

One JSON line first for each server (the machine, the probe, how long it took to start), then one
for each workload and number of clients. The first server is ours (`--config`), any other with the
same API (`--command`), or one that runs already (`--url`). Others can be put beside it; they are
measured one after the other, never two at once, and compared at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.compare import compare_runs
from benchmarks.cost import find_cost
from benchmarks.machine import describe_machine
from benchmarks.probe import probe
from benchmarks.report import ImpossibleNumberError, summarise_row
from benchmarks.server import first_model, read_version
from benchmarks.session import Session
from benchmarks.target import Target, add_target_arguments, make_targets
from benchmarks.workload import WORKLOADS, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.report import Run

# What a peer may do without ending the measurement: not start, not serve, be faster than possible.
PEER_ERRORS = (RuntimeError, OSError, ImpossibleNumberError, httpx.HTTPError)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    add_target_arguments(parser)
    parser.add_argument(
        "--workload",
        action="append",
        choices=[*WORKLOADS, "all"],
        help="may be given several times; default: random-128-128",
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, help="of a run; default: 2 a client, at least 4")
    parser.add_argument("--runs", type=int, default=3, help="of each row")
    parser.add_argument(
        "--rounds", type=int, default=1, help="over all servers, so that they take turns"
    )
    parser.add_argument(
        "--idle", type=float, default=10, metavar="S", help="seconds to watch the idle server"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--client-processes", type=int, default=1)
    parser.add_argument("--ready-timeout", type=float, default=600, metavar="S")
    parser.add_argument("--probe-device", default="cpu", help="cpu, cuda")
    args = parser.parse_args(argv)
    try:
        args.targets = make_targets(args)
    except ValueError as error:
        parser.error(str(error))
    names = args.workload or ["random-128-128"]
    args.workloads = list(WORKLOADS.values()) if "all" in names else [WORKLOADS[n] for n in names]
    return args


def print_line(**fields: Any) -> None:
    """Print one JSON line at once, so that nothing is lost when a later row fails."""
    print(json.dumps(fields), flush=True)


class Measurement:
    """All runs so far, by server, workload and number of clients; prints them as rows."""

    def __init__(self, args: argparse.Namespace, log: Path) -> None:
        self.args = args
        self.log = log
        self.runs: dict[tuple[str, str, int], list[Run]] = {}
        self.costs = {t.name: find_cost(t.cost, t.sets) for t in args.targets}

    def list_rows(self) -> list[tuple[Workload, int]]:
        """Return workloads and numbers of clients, in the order in which they are measured."""
        return [
            (workload, clients)
            for workload in self.args.workloads
            for clients in ([1] if workload.is_prefill else self.args.clients)
        ]

    def measure_all(self) -> bool:
        """Measure every server in every round; return whether all requests to ours succeeded.

        Raises:
            ImpossibleNumberError, RuntimeError, TimeoutError: about the first server.
        """
        for round_ in range(self.args.rounds):
            for target in self.args.targets:
                try:
                    self.measure_target(target, round_)
                except PEER_ERRORS as error:
                    if target is self.args.targets[0]:
                        raise
                    print_line(kind="failure", server=target.name, round=round_, error=str(error))
        if self.args.rounds > 1:
            self.print_pooled()
        self.print_ratios()
        ours = self.args.targets[0].name
        return not any(
            run.failures for (name, *_), runs in self.runs.items() if name == ours for run in runs
        )

    def measure_target(self, target: Target, round_: int) -> None:
        """Probe, start one server, measure its rows, watch it idle, stop it."""
        machine = probe(self.args.probe_device)
        cost = self.costs[target.name]
        with target.open(self.log, self.args.ready_timeout) as (url, process):
            model = target.model or first_model(url)
            session = Session(self.args, target, round_, url, process, model, machine, cost)
            warm_up_s, warm_up_failures = session.warm_up(max(self.args.clients))
            print_line(
                kind="setup",
                server=target.name,
                round=round_,
                target=shlex.join(target.command).replace(f"{Path.cwd()}/", "") or target.url,
                version=read_version(url),
                model=model,
                api=target.api,
                fields=target.fields,
                machine=describe_machine(),
                probe=dataclasses.asdict(machine),
                cost=dataclasses.asdict(cost) if cost else None,
                ready_s=round(process.ready_s, 2) if process else None,
                warm_up_s=round(warm_up_s, 2),
                warm_up_failures=warm_up_failures,
                arguments=shlex.join(sys.argv[1:]),
            )
            for workload, clients in self.list_rows():
                self.measure_row(session, workload, clients)
            if process and self.args.idle:
                watched = session.watch_idle(self.args.idle)
                print_line(kind="idle", server=target.name, round=round_, **watched)

    def measure_row(self, session: Session, workload: Workload, clients: int) -> None:
        """Measure one workload and number of clients, and print what is known of it now.

        Raises:
            ImpossibleNumberError: none of these runs is kept.
        """
        key = (session.target.name, workload.name, clients)
        known, runs = self.runs.get(key, []), session.measure_row(workload, clients)
        try:
            row = summarise_row([*known, *runs], workload)
        except ImpossibleNumberError:
            # The machine may have been busier while it was probed than while it was measured.
            session.machine = session.machine.better(probe(self.args.probe_device))
            print_line(kind="probe", server=key[0], **dataclasses.asdict(session.machine))
            limit = session.find_limit(workload, clients)
            runs = [dataclasses.replace(run, limit=limit) for run in runs]
            row = summarise_row([*known, *runs], workload)
        self.runs[key] = [*known, *runs]
        # With several rounds, what a row says is known at the end; parts are for a crash.
        kind = "part" if self.args.rounds > 1 else "row"
        print_line(kind=kind, **self.name_row(*key), **row)

    @staticmethod
    def name_row(server: str, workload: str, clients: int) -> dict[str, Any]:
        """Return what a row is of."""
        return {"server": server, "workload": workload, "clients": clients}

    def print_pooled(self) -> None:
        """Print the rows over all rounds."""
        for workload, clients in self.list_rows():
            for target in self.args.targets:
                key = (target.name, workload.name, clients)
                if key in self.runs:
                    row = summarise_row(self.runs[key], workload)
                    print_line(kind="row", **self.name_row(*key), **row)

    def print_ratios(self) -> None:
        """Print how the first server compares with each other one, where both have a row."""
        ours, *peers = (target.name for target in self.args.targets)
        for workload, clients in self.list_rows():
            for peer in peers:
                sides = [self.runs.get((name, workload.name, clients)) for name in (ours, peer)]
                if sides[0] and sides[1]:
                    ratios = compare_runs(sides[0], sides[1], workload)
                    names = self.name_row(ours, workload.name, clients)
                    print_line(kind="ratio", peer=peer, **names, **ratios)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a request to the first server failed."""
    args = parse_arguments(argv)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that the server stops
    with tempfile.TemporaryDirectory(prefix="llmplug-bench-") as folder:
        return 0 if Measurement(args, Path(folder) / "server.log").measure_all() else 1


if __name__ == "__main__":
    sys.exit(main())
