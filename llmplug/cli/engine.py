"""`llmplug engine`: the engine process; started by the server, never by hand."""

from __future__ import annotations

import argparse
import gc

NAME = "engine"
HELP = argparse.SUPPRESS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the socket; the rest arrives on stdin, so that no secret shows in a process list."""
    parser.add_argument("socket", help="path of the server's unix socket")


def run(args: argparse.Namespace) -> int:
    """Serve one model until the server says stop or goes away."""
    from llmplug.engine.stage_clock import StageClock

    # To look for garbage meanwhile makes imports a tenth longer; `run_worker` turns it on again.
    gc.disable()
    clock = StageClock("imports")
    from llmplug.processes import run_engine_process

    return run_engine_process(args.socket, clock)
