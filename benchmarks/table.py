"""Markdown tables of what was measured: `python -m benchmarks.table RESULTS.jsonl`.

Prints them, or with `-o PAGE.md` puts them between the page's lines `<!-- table:begin -->` and
`<!-- table:end -->`. A column in which no row has a value is left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.results import Line, count_failures, pick, reach, read_lines, values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Columns = dict[str, Callable[[Line], str]]

BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"


def show(value: float | None) -> str:
    """Write a number with three digits that count, or all before the point; empty: none."""
    if value is None:
        return ""
    if abs(value) >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.1e}"


def show_spread(spread: Any) -> str:
    """Write median, least and most: `44 (42–45)`; one number where there was one run."""
    if not spread:
        return ""
    median, low, high = (show(spread[key]) for key in ("median", "min", "max"))
    return median if low == high else f"{median} ({low}–{high})"


def show_percent(share: float | None) -> str:
    """Write a share of 1 in percent."""
    return "" if share is None else f"{show(100 * share)} %"


def show_fixed(value: float | None) -> str:
    """Write a number near 0 with two digits after the point."""
    return "" if value is None else f"{value:.2f}"


def render(columns: Columns, lines: Sequence[Line]) -> str:
    """Write one table; the columns that nobody fills are left out."""
    cells = {title: [write(line) for line in lines] for title, write in columns.items()}
    kept = {title: texts for title, texts in cells.items() if any(texts)}
    rows = [list(kept), ["---"] * len(kept), *map(list, zip(*kept.values(), strict=True))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


ROW: Columns = {
    "clients": lambda line: str(line["clients"]),
    "server": lambda line: line["server"],
    "tokens/s": lambda line: show_spread(line["output_tok_s"]),
    "prefill tokens/s": lambda line: show_spread(line.get("prefill_tok_s")),
    "TTFT p50, ms": lambda line: show_spread(reach(line, "ttft_ms", "runs")),
    "TPOT p50, ms": lambda line: show_spread(reach(line, "tpot_ms", "runs")),
    "cached": lambda line: show_percent(line.get("hit_rate") or None),
    "of the limit": lambda line: show(reach(line, "limit", "throughput_ratio")),
    "HTTP share": lambda line: show_percent(reach(line, "http_share", "median")),
    "engine host share": lambda line: show_percent(reach(line, "engine_share", "host")),
    "peak MiB": lambda line: show(line.get("peak_rss_mib")),
    "foreign cores": lambda line: show_fixed(reach(line, "foreign_cores", "median")),
    "failed": lambda line: str(count_failures(line) or ""),
}
PREFILL: Columns = {
    **{title: write for title, write in ROW.items() if title not in {"tokens/s", "of the limit"}},
    "of the limit": lambda line: show(reach(line, "limit", "ttft_ratio")),
}
RATIO: Columns = {
    "workload": lambda line: line["workload"],
    "clients": lambda line: str(line["clients"]),
    "against": lambda line: line["peer"],
    "tokens/s": lambda line: show_spread(line["output_tok_s"]),
    "prefill tokens/s": lambda line: show_spread(line.get("prefill_tok_s")),
    "TTFT": lambda line: show_spread(line["ttft"]),
    "TPOT": lambda line: show_spread(line.get("tpot")),
    "failed": lambda line: str(line["failures"] or ""),
    "failed there": lambda line: str(line["peer_failures"] or ""),
}
SERVER: Columns = {
    "server": lambda line: line["server"],
    "version": lambda line: line.get("version") or "",
    "model": lambda line: line["model"].rpartition("/")[2],  # some call it by its path
    "ready, s": lambda line: show(line["ready_s"]),
    "idle, % of a core": lambda line: show_fixed(line.get("percent")),
}
QUALITY: Columns = {
    "weights": lambda line: line["format"],
    "kept as": lambda line: ", ".join(line["kept"]),
    "linear layers, MB": lambda line: show(line["linear_bytes"] / 1e6),
    "KL mean": lambda line: f"{line['kl_mean']:.1e}",
    "KL max": lambda line: f"{line['kl_max']:.1e}",
    "perplexity": lambda line: f"{line['perplexity']:.2f}",
    "same best token": lambda line: f"{100 * line['same_argmax']:.1f} %",
}


def render_all(lines: Sequence[Line]) -> str:
    """Write a table for each workload, one of ratios, one of servers, one of weight formats."""
    rows, ratios = pick(lines, "row"), pick(lines, "ratio")
    quality = [line for line in pick(lines, "quality") if "error" not in line]
    tables = []
    for workload in values_of(rows, "workload"):
        wanted = pick(rows, "row", workload=workload)
        # Servers beside each other, for each number of clients.
        wanted.sort(key=lambda line: line["clients"])
        columns = PREFILL if "prefill_tok_s" in wanted[0] else ROW
        tables.append(f"`{workload}`\n\n{render(columns, wanted)}")
    if ratios:
        ours = values_of(ratios, "server")[0]
        tables.append(f"Ratios, `{ours}` / the other\n\n{render(RATIO, ratios)}")
    if servers := join_idle(lines):
        tables.append(f"Servers\n\n{render(SERVER, servers)}")
    if quality:
        tables.append(f"Weight formats\n\n{render(QUALITY, quality)}")
    return "\n\n".join(tables)


def join_idle(lines: Sequence[Line]) -> list[Line]:
    """Return one line for each server's first start, with what it took while idle."""
    setups = pick(lines, "setup", round=0)
    idle = {line["server"]: line["percent"] for line in pick(lines, "idle", round=0)}
    return [{**line, "percent": idle.get(line["server"])} for line in setups]


def put_between(page: str, text: str) -> str:
    """Return a page with `text` between its markers.

    Raises:
        ValueError: they are not there, each once and in their order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in after:
        raise ValueError(f"the page needs a line {BEGIN} and after it a line {END}, once")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or put them into a page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS.jsonl")
    parser.add_argument("-o", "--output", type=Path, metavar="PAGE.md")
    args = parser.parse_args(argv)
    text = render_all(read_lines(args.results))
    if args.output is None:
        print(text)
    else:
        args.output.write_text(put_between(args.output.read_text(), text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
