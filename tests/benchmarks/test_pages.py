"""Tables and pictures of lines that are made up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import plot, table


def spread(median: float) -> dict[str, float]:
    return {"median": median, "min": median * 0.9, "max": median * 1.1}


def row(server: str, clients: int, rate: float, **fields: Any) -> dict[str, Any]:
    return {
        "kind": "row",
        "server": server,
        "workload": "random-128-128",
        "clients": clients,
        "output_tok_s": spread(rate),
        "ttft_ms": {"p50": 2000.0, "runs": spread(1234.5)},
        "tpot_ms": {"p50": 10.0, "runs": spread(0.05)},
        "failures": {},
        **fields,
    }


MACHINE = {"cpu": "Fast <CPU>", "cores": 2}
SETUP = {"kind": "setup", "round": 0, "model": "small", "version": "1.0", "machine": MACHINE}
RATIO = {"kind": "ratio", "server": "llmplug", "peer": "other", "workload": "random-128-128"}
LINES: list[dict[str, Any]] = [
    {**SETUP, "server": "llmplug", "ready_s": 3.456},
    row("llmplug", 1, 95.25, http_share=spread(0.025)),
    row("llmplug", 8, 271.4, failures={}),
    {"kind": "idle", "server": "llmplug", "round": 0, "percent": 0.0},
    {**SETUP, "server": "other", "version": None, "ready_s": 100.0},
    row("other", 1, 13.0),
    row("other", 8, 56.0, failures={"HTTP 500: no": 3, "TimeoutError": 1}),
    {**row("llmplug", 1, 2.0), "workload": "prefill-512", "prefill_tok_s": spread(512.0)},
    {
        **RATIO,
        "clients": 8,
        "output_tok_s": spread(4.8),
        "ttft": spread(0.5),
        "tpot": {},
        "failures": 0,
        "peer_failures": 4,
    },
    {
        "kind": "quality",
        "format": "int8",
        "kept": ["int8"],
        "linear_bytes": 135_000_000,
        "kl_mean": 0.00442,
        "kl_max": 0.0469,
        "perplexity": 29.68,
        "same_argmax": 0.9474,
    },
    {"kind": "quality", "format": "int4", "error": "this file has no blocks"},
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES) + "\n")
    return path


def parse_tables(text: str) -> list[list[dict[str, str]]]:
    """Read markdown tables as lists of rows by column."""
    tables = []
    for block in re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE):
        head, rule, *rows = [
            [cell.strip() for cell in line[1:-1].split("|")] for line in block.strip().splitlines()
        ]
        assert set(rule) == {"---"}
        tables.append([dict(zip(head, cells, strict=True)) for cells in rows])
    return tables


def test_tables_hold_what_was_measured(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.main([str(results)])
    random, prefill, ratios, servers, quality = parse_tables(capsys.readouterr().out)
    assert [(r["clients"], r["server"]) for r in random] == [
        ("1", "llmplug"),
        ("1", "other"),
        ("8", "llmplug"),
        ("8", "other"),
    ]
    assert random[0]["tokens/s"] == "95.2 (85.7–105)"
    assert random[0]["TTFT p50, ms"] == "1234 (1111–1358)"
    assert [r["HTTP share"] for r in random] == ["2.5 %", "", "", ""]
    assert [r["failed"] for r in random] == ["", "", "", "4"]
    assert "of the limit" not in random[0]  # nobody has one
    assert prefill[0]["prefill tokens/s"] == "512 (461–563)"
    assert "tokens/s" not in prefill[0]
    assert ratios[0]["tokens/s"] == "4.8 (4.32–5.28)"
    assert (ratios[0]["against"], ratios[0]["failed there"]) == ("other", "4")
    assert "TPOT" not in ratios[0]
    assert servers[0] == {
        "server": "llmplug",
        "version": "1.0",
        "model": "small",
        "ready, s": "3.46",
        "idle, % of a core": "0.00",
    }
    assert servers[1]["ready, s"] == "100"
    assert len(quality) == 1
    assert quality[0]["KL mean"] == "4.4e-03"
    assert quality[0]["linear layers, MB"] == "135"


def test_page_keeps_what_stands_around_its_tables(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    before, after = "# Title\n\n", "\n\nAfter | all.\n"
    page.write_text(f"{before}{table.BEGIN}\nold\n{table.END}{after}")
    table.main([str(results), "-o", str(page)])
    written = page.read_text()
    assert written.startswith(before + table.BEGIN + "\n\n`random-128-128`")
    assert written.endswith(table.END + after)
    assert "old" not in written
    table.main([str(results), "-o", str(page)])
    assert page.read_text() == written


@pytest.mark.parametrize(
    "page", ["", table.BEGIN, table.END + table.BEGIN, 2 * (table.BEGIN + table.END)]
)
def test_page_without_its_two_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="table:begin"):
        table.put_between(page, "text")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0, "0"),
        (0.0123, "0.0123"),
        (0.00123, "1.2e-03"),
        (9.876, "9.88"),
        (1234, "1234"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float | None, text: str) -> None:
    assert table.show(value) == text


def test_one_run_has_no_spread() -> None:
    assert table.show_spread({"median": 3.0, "min": 3.0, "max": 3.0}) == "3"


def draw(results: Path, output: Path, *argv: str) -> Path:
    assert plot.main([str(results), "-o", str(output), *argv]) == 0
    return output


def test_picture_is_the_same_for_the_same_results(results: Path, tmp_path: Path) -> None:
    first, second = (draw(results, tmp_path / name) for name in ("a.svg", "b.svg"))
    assert first.read_bytes() == second.read_bytes()
    root = ElementTree.parse(first).getroot()
    assert root.tag.endswith("svg")
    assert float(root.attrib["width"].removesuffix("pt")) == 8 * 72


def test_picture_has_a_bar_and_a_number_for_each_row() -> None:
    rows = sorted((line for line in LINES if line["kind"] == "row"), key=lambda r: r["clients"])
    rows = [line for line in rows if line["workload"] == "random-128-128"]
    figure = plot.draw(rows, "title")
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["llmplug", "other"] * 2
    assert [bar.get_width() for bar in left.patches] == pytest.approx([95.25, 13, 271.4, 56])
    # The second axis is logarithmic: a bar begins at its left end, not at 0.
    assert [bar.get_x() + bar.get_width() for bar in right.patches] == pytest.approx([1234.5] * 4)
    texts = [text.get_text() for text in left.texts]
    assert {"95.2", "13", "271", "56, 4 failed", "1 client", "8 clients"} == set(texts)
    dark = [bar.get_facecolor() for bar in left.patches]
    assert dark[0] == dark[2] != dark[1] == dark[3]


def test_row_of_failures_has_no_bar(results: Path, tmp_path: Path) -> None:
    """Nothing succeeded: there is a rate of 0, and no time to the first token."""
    failed = row("other", 8, 0.0, ttft_ms={}, failures={"x": 4})
    figure = plot.draw([row("llmplug", 8, 9.0), failed], "title")
    assert [len(axes.patches) for axes in figure.axes] == [2, 1]
    assert "0, 4 failed" in [text.get_text() for text in figure.axes[0].texts]


def test_workload_without_rows_is_refused(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(results, tmp_path / "p.png", "--workload", "prefill-512")
    with pytest.raises(SystemExit):
        draw(results, tmp_path / "q.png", "--workload", "nothing")
    assert "no row of 'nothing'" in capsys.readouterr().err
