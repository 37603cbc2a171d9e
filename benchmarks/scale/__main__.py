"""Run studies and print their rows, or draw pictures of rows."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.results import read_lines
from benchmarks.scale.studies import STUDIES

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is asked for, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("what", choices=["all", "plot", *STUDIES])
    parser.add_argument("results", type=Path, nargs="*", metavar="RESULTS.jsonl", help="for plot")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs"), help="folder, for plot")
    args = parser.parse_args(argv)
    if args.what == "plot":
        from benchmarks.scale.pictures import draw_all

        draw_all(read_lines(args.results), args.output)
        return 0
    for name in STUDIES if args.what == "all" else [args.what]:
        started = time.monotonic()
        for row in STUDIES[name]():
            sys.stdout.write(f"{json.dumps({'kind': name, **row})}\n")
            sys.stdout.flush()
        sys.stderr.write(f"{name}: {time.monotonic() - started:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
