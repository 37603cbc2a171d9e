"""A picture of what was measured: `python -m benchmarks.plot RESULTS.jsonl -o PICTURE.svg`.

Tokens per second of each server by the number of clients, and beside it the time to the first
token. Bars are medians of the runs; the line on a bar reaches from the least run to the most.
Needs matplotlib, which the extra `bench` brings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.results import Line, count_failures, pick, reach, read_lines, values_of
from benchmarks.table import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

WIDTH_IN = 8.0  # 800 pixels at DPI
DPI = 100
BAR_IN = 0.27
GAP = 1.2  # between two groups, in bars: room for the title of the next
MARGIN_IN = 1.15  # above and below the bars: titles, axis
TOKENS, FIRST_TOKEN = ("output_tok_s",), ("ttft_ms", "runs")  # where a row has them
OURS, OTHERS = "#1f3b57", "#b9c2cb"  # dark and light, so also without colour
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "svg.hashsalt": "llmplug",  # equal results give equal files
}


def place_bars(rows: Sequence[Line]) -> tuple[list[float], dict[int, float]]:
    """Return where each row's bar lies, and where each group's title: one group a client count.

    Rows of one group stand together, in their order; the first is at 0 and the axis points down.
    """
    places: list[float] = []
    titles: dict[int, float] = {}
    at = 0.0
    for row in rows:
        if row["clients"] not in titles:
            at += GAP if titles else 0.0
            titles[row["clients"]] = at
        places.append(at + 1)
        at += 1
    return places, titles


def draw_bars(axes: Axes, rows: Sequence[Line], places: Sequence[float], *keys: str) -> None:
    """Draw a bar for each row that has this spread, with its number at the end."""
    ours = rows[0]["server"]
    left = axes.get_xlim()[0]
    for row, place in zip(rows, places, strict=True):
        spread: Any = reach(row, *keys)
        if not spread:
            continue
        colour = OURS if row["server"] == ours else OTHERS
        axes.barh(place, spread["median"] - left, left=left, height=0.84, color=colour)
        for width, ink in ((3.0, "white"), (1.3, "black")):
            axes.plot([spread["min"], spread["max"]], [place, place], color=ink, linewidth=width)
        failed = count_failures(row) if keys == TOKENS else 0  # said once is enough
        text = show(spread["median"]) + (f", {failed} failed" if failed else "")
        end = (spread["max"], place)
        axes.annotate(text, end, (5, 0), textcoords="offset points", va="center")


def set_limits(axes: Axes, rows: Sequence[Line], *keys: str) -> None:
    """Choose the ends of an axis, with room for the numbers on the right."""
    values = [reach(row, *keys, end) for row in rows for end in ("min", "max") if reach(row, *keys)]
    if axes.get_xscale() == "log":
        axes.set_xlim(min(values) / 2, max(values) * 4)
    else:
        axes.set_xlim(0, max(values) * 1.25)


def draw(rows: Sequence[Line], title: str) -> Figure:
    """Draw one workload; the first row's server is ours."""
    places, titles = place_bars(rows)
    height = (places[-1] + 1) * BAR_IN + MARGIN_IN
    figure = Figure(figsize=(WIDTH_IN, height), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    panels = (
        (left, "output tokens per second: more is better", TOKENS),
        (right, "ms to the first token (log): less is better", FIRST_TOKEN),
    )
    right.set_xscale("log")
    right.xaxis.set_major_formatter("{x:.0f}")
    right.xaxis.set_minor_locator(NullLocator())
    for axes, label, keys in panels:
        set_limits(axes, rows, *keys)
        draw_bars(axes, rows, places, *keys)
        axes.set_title(label, fontsize=10, loc="left")
        axes.tick_params(axis="y", length=0)
    left.set_yticks(places, [row["server"] for row in rows])
    left.set_ylim(places[-1] + 0.7, -0.6)
    for clients, place in titles.items():
        text = "1 client" if clients == 1 else f"{clients} clients"
        left.text(left.get_xlim()[0], place + 0.1, text, va="center", weight="bold")
    figure.suptitle(title, fontsize=11, weight="bold", x=0.01, ha="left")
    return figure


def make_title(lines: Sequence[Line], workload: str) -> str:
    """Return model, machine and workload in one line."""
    setup = pick(lines, "setup")[0]
    cores, cpu = setup["machine"]["cores"], setup["machine"]["cpu"]
    return f"{setup['model']}, {workload}, {cores} cores of {cpu}"


def main(argv: Sequence[str] | None = None) -> int:
    """Draw one workload into a file whose suffix says the format."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS.jsonl")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .svg or .png file")
    parser.add_argument("--workload", help="the first one of the file if left out")
    args = parser.parse_args(argv)
    lines = read_lines(args.results)
    workload = args.workload or values_of(pick(lines, "row"), "workload")[0]
    rows = pick(lines, "row", workload=workload)
    if not rows:
        parser.error(f"no row of {workload!r}")
    servers = values_of(rows, "server")
    rows.sort(key=lambda row: (row["clients"], servers.index(row["server"])))
    metadata = {"Date": None} if args.output.suffix == ".svg" else None
    with mpl.rc_context(STYLE):
        draw(rows, make_title(lines, workload)).savefig(args.output, metadata=metadata)
    return 0


if __name__ == "__main__":
    sys.exit(main())
