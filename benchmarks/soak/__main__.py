"""Clients that ask for minutes while processes are killed; prints a line of JSON.

The first two thirds of the time, or `--storm` minutes, are a storm, the rest a calm: without kills
processes live long enough for their memory and files to have a slope. Exit status 1: something was
not as it should be, and the line says what.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import describe_machine
from benchmarks.server import ServerProcess, find_free_port, first_model
from benchmarks.soak.run import Plan, soak

if TYPE_CHECKING:
    from collections.abc import Sequence

READY_TIMEOUT_S = 300.0
STORM_SHARE = 2 / 3
TINY = """
server: {{port: {port}, responses: {{path: memory}}, batches: {{path: none}}}}
log: {{level: warning}}
models:
  - {{source: {source}, name: tiny, device: cpu, threads: 1, cache: {{memory: 64MiB}}}}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run it, print the line, and return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.soak", description=__doc__)
    parser.add_argument("--config", type=Path, help="serve this in place of a tiny random model")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--storm", type=float, metavar="MINUTES", help="of them with kills")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--think", type=float, default=0.0, metavar="S", help="between requests")
    parser.add_argument("--engine-every", type=float, default=20.0, metavar="S", help="0: never")
    parser.add_argument("--http-every", type=float, default=45.0, metavar="S", help="0: never")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="write the line there too")
    args = parser.parse_args(argv)
    storm_s = 60 * (args.minutes * STORM_SHARE if args.storm is None else args.storm)
    plan = Plan(
        num_clients=args.clients,
        storm_s=storm_s,
        calm_s=max(0.0, args.minutes * 60 - storm_s),
        engine_every_s=args.engine_every,
        http_every_s=args.http_every,
        think_s=args.think,
        seed=args.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder  # where servers keep what they note
        line = run(plan, args.config, Path(folder))
    text = json.dumps(line)
    sys.stdout.write(f"{text}\n")
    if args.output is not None:
        args.output.write_text(f"{text}\n")
    return 1 if line["problems"] else 0


def run(plan: Plan, config: Path | None, folder: Path) -> dict[str, object]:
    """Start a server, let it soak, and return what is to be reported."""
    port = find_free_port()
    config = config or write_tiny_config(folder, port)
    program = str(Path(sys.executable).with_name("llmplug"))
    command = [program, "serve", "--config", str(config), "--set", f"server.port={port}"]
    url, log = f"http://127.0.0.1:{port}", folder / "log.txt"
    with ServerProcess(command, url, log, READY_TIMEOUT_S) as server:
        report = asyncio.run(soak(server.pid, url, first_model(url), plan))
    line = {**report.describe(), "machine": describe_machine()}
    if line["problems"]:
        sys.stderr.write(log.read_text(errors="replace")[-4000:])
    return line


def write_tiny_config(folder: Path, port: int) -> Path:
    """Make a tiny random model, and a config that serves it."""
    from tests.tiny import make_checkpoint

    source = make_checkpoint("llama", folder / "model", max_position_embeddings=1024)
    path = folder / "config.yaml"
    path.write_text(TINY.format(port=port, source=source))
    return path


if __name__ == "__main__":
    sys.exit(main())
