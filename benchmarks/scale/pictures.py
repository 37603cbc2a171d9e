"""Rows of studies as pictures for docs/scale.md; the extra `bench` brings matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.plot import DPI, STYLE, WIDTH_IN
from benchmarks.results import pick, values_of
from benchmarks.scale.routing import CAREFUL, ROUTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from benchmarks.results import Line

HEIGHT_IN = 3.4
# Light to dark, so also without colour; the fifth is ours.
INKS = ("#b9c2cb", "#8f9dab", "#64788c", "#d08a2e", "#1f3b57", "#a03a2c")
MARKS = ("o", "s", "^", "D", "v", "P")


def draw_all(lines: Sequence[Line], folder: Path) -> None:
    """Write a picture of each study that has rows."""
    for name, draw in PICTURES.items():
        if pick(lines, name):
            with mpl.rc_context({**STYLE, "axes.spines.left": True}):
                figure = draw(lines)
                figure.savefig(folder / f"scale-{name}.svg", metadata={"Date": None})


def draw_routing(lines: Sequence[Line]) -> Figure:
    """Time to the first token by load, and what was cached, on two machines."""
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=DPI, layout="constrained")
    names = {"cpu": "measured: 2 cores, 135M", "gpu": "assumed: a GPU, 8B"}
    for axes, (machine, title) in zip(figure.subplots(1, 2), names.items(), strict=True):
        rows = pick(lines, "routing", machine=machine)
        _draw_lines(axes, rows, "router", "load", "ttft_p99_s")
        axes.set_yscale("log")
        _use_logarithms(axes.yaxis)
        _label(axes, title, "load / what is possible without cache hits", "s to first token, p99")
    _name_lines(figure, figure.axes[0])
    return figure


def draw_admission(lines: Sequence[Line]) -> Figure:
    """What waits and what is given up, by how many may run and wait."""
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=DPI, layout="constrained")
    rows = [{**row, "lost": row["given_up"] / row["asked"]} for row in pick(lines, "admission")]
    left, right = figure.subplots(1, 2)
    for axes, key, title in (
        (left, "ttft_p99_s", "s to first token of who is answered, p99"),
        (right, "lost", "share of requests that are given up"),
    ):
        _draw_lines(axes, rows, "bounds", "load", key)
        _label(axes, title, "load / what is possible without cache hits", "")
    left.set_yscale("log")
    _use_logarithms(left.yaxis)
    _name_lines(figure, left)
    return figure


def draw_size(lines: Sequence[Line]) -> Figure:
    """From one server to a thousand; and with loads that are known late."""
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_lines(left, pick(lines, "size"), "router", "servers", "ttft_p99_s")
    left.set_xscale("log")
    _label(left, "the same load of each server", "servers", "s to first token, p99")
    rows = pick(lines, "stale")
    order = [*ROUTERS, CAREFUL]
    _draw_lines(right, rows, "router", "stale_s", "ttft_p99_s", order)
    _label(right, "40 servers, loads known late", "s between two looks at loads", "")
    left.xaxis.set_major_formatter("{x:g}")
    _name_lines(figure, left, right)
    for axes in (left, right):
        axes.set_yscale("log")
        _use_logarithms(axes.yaxis)
    return figure


def draw_autoscaling(lines: Sequence[Line]) -> Figure:
    """Servers over three hours, and what those waited who asked then."""
    figure = Figure(figsize=(WIDTH_IN, 1.5 * HEIGHT_IN), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for row, ink in zip(pick(lines, "autoscaling"), INKS[4::-1], strict=False):
        is_fixed = row["start_s"] is None
        name = "10 servers, always" if is_fixed else f"ready after {row['start_s']:.0f} s"
        sights = row["sights"] or [[0.0, 10, 0], [3 * 3600.0, 10, 0]]
        within = [(at / 60, count) for at, count, _ in sights if at <= 3 * 3600]
        upper.step(*zip(*within, strict=True), color=ink, label=name, where="post")
        waits = [(at / 60, wait) for at, wait in row["waits"] if at <= 3 * 3600]
        lower.plot(*zip(*waits, strict=True), color=ink, linewidth=1)
    lower.set_yscale("log")
    _use_logarithms(lower.yaxis)
    _label(upper, "servers", "", "")
    _label(lower, "s to first token of who asked in these two minutes, p95", "minutes", "")
    _name_lines(figure, upper)
    return figure


PICTURES: dict[str, Callable[[Sequence[Line]], Figure]] = {
    "routing": draw_routing,
    "admission": draw_admission,
    "size": draw_size,
    "autoscaling": draw_autoscaling,
}


def _draw_lines(
    axes: Axes, rows: Sequence[Line], of: str, along: str, key: str, order: Sequence[str] = ()
) -> None:
    """Draw a line for each value of a field."""
    names = list(order) or values_of(rows, of)
    for number, name in enumerate(names):
        points = [(row[along], row[key]) for row in rows if row[of] == name]
        if points:
            xs, ys = zip(*points, strict=True)
            axes.plot(
                xs, ys, label=str(name), color=INKS[number], marker=MARKS[number], markersize=4
            )


def _name_lines(figure: Figure, *panels: Axes) -> None:
    """Say below all panels which line is what."""
    named = {str(line.get_label()): line for axes in panels for line in axes.lines}
    figure.legend(
        named.values(),
        named.keys(),
        loc="outside lower center",
        ncols=6,
        frameon=False,
        fontsize=8,
    )


def _use_logarithms(axis: Axis) -> None:
    """Show 1, 2, 5, 10 and so on, as they are spelt."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _label(axes: Axes, title: str, below: str, beside: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(below, fontsize=9)
    axes.set_ylabel(beside, fontsize=9)
    axes.grid(axis="y", color="#e5e8eb", linewidth=0.6)
    axes.set_axisbelow(True)
