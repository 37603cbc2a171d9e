"""docs/scale.md shows what the simulation says, and what it says again."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.results import pick, read_lines
from benchmarks.scale.__main__ import main
from benchmarks.scale.pictures import PICTURES
from benchmarks.scale.studies import STUDIES
from benchmarks.scale.tables import TABLES, render_all
from benchmarks.table import put_between

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/scale.jsonl"
LINES = read_lines([RESULTS])


def test_tables_are_those_of_the_results() -> None:
    page = (ROOT / "docs/scale.md").read_text()
    assert put_between(page, render_all(LINES)) == page, "run `python -m benchmarks.scale write`"
    assert set(TABLES) == set(STUDIES) <= {line["kind"] for line in LINES}


@pytest.mark.parametrize("name", ["capacity", "admission"])
def test_a_study_says_the_same_again(name: str) -> None:
    written = pick(LINES, name)[:2]
    again = [{"kind": name, **row} for row in islice(STUDIES[name](), len(written))]
    assert json.loads(json.dumps(again)) == written


def test_pictures_are_drawn_and_shown(tmp_path: Path) -> None:
    page = (ROOT / "docs/scale.md").read_text()
    (tmp_path / "scale.md").write_text(page)
    assert main(["write", str(RESULTS), "-o", str(tmp_path)]) == 0
    assert (tmp_path / "scale.md").read_text() == page
    for name in PICTURES:
        picture = f"scale-{name}.svg"
        assert ElementTree.parse(tmp_path / picture).getroot().tag.endswith("svg")
        assert f"({picture})" in page
        assert (ROOT / "docs" / picture).exists()
