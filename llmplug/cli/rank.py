"""`llmplug rank`: a rank beside an engine process, which starts it; never by hand."""

from __future__ import annotations

import argparse
import gc

NAME = "rank"
HELP = argparse.SUPPRESS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take nothing: all arrives by the socket that stands where stdin does."""


def run(args: argparse.Namespace) -> int:
    """Compute what rank 0 says until it goes away."""
    gc.disable()  # while it imports
    from llmplug.processes import run_rank_process

    run_rank_process()
