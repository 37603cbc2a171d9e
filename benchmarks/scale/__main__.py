"""Run studies and print their rows, or write pictures and tables of rows into a folder."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.results import read_lines
from benchmarks.scale.studies import STUDIES
from benchmarks.scale.tables import render_all
from benchmarks.table import put_between

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is asked for, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("what", choices=["all", "write", *STUDIES])
    parser.add_argument("results", type=Path, nargs="*", metavar="RESULTS.jsonl", help="to write")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("docs"), help="folder to write to"
    )
    args = parser.parse_args(argv)
    if args.what == "write":
        from benchmarks.scale.pictures import draw_all

        lines = read_lines(args.results)
        draw_all(lines, args.output)
        page = args.output / "scale.md"
        page.write_text(put_between(page.read_text(), render_all(lines)))
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
