"""docs/kernels.md names every op, its reference's file, and every bundled kernel, and no others."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

from llmplug.ops import REFERENCES

ROOT = Path(__file__).parents[2]


def read_table() -> dict[str, list[str]]:
    """The cells of each op."""
    table = {}
    for line in (ROOT / "docs" / "kernels.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for op in re.findall(r"`(\w+)`", cells[0]) if line.startswith("| `") else ():
            table[op] = cells
    return table


def test_table_has_every_op_and_its_reference() -> None:
    table = read_table()
    assert table.keys() == REFERENCES.keys()
    for op, cells in table.items():
        files = re.findall(r"`(\w+\.py)`", cells[1])
        assert files, op
        assert all((ROOT / "llmplug" / "ops" / file).is_file() for file in files), op
        assert ("composed" in cells[1]) == (REFERENCES[op].compose is not None), op


def test_table_has_every_bundled_kernel() -> None:
    bundled = {"llmplug_triton", "llmplug_cpu", "llmplug_onednn"}
    points = [point for point in entry_points(group="llmplug") if point.module in bundled]
    assert {point.module for point in points} == bundled
    offered: dict[str, set[str]] = {op: set() for op in REFERENCES}
    for point in points:
        for spec in point.load().llmplug_kernels():
            offered[spec.op].add(spec.name)
    assert {op: set(re.findall(r"`(\w+)`", c[2])) for op, c in read_table().items()} == offered
