"""The pages that are written from the code say what the code says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from docs import included_code
from docs.write_reference import FOLDER, PAGES


@pytest.mark.parametrize("page", PAGES)
def test_reference_page_is_up_to_date(page: str) -> None:
    if page == "cli.md" and sys.version_info >= (3, 13):
        pytest.skip("argparse lays its help out differently since Python 3.13")
    assert (FOLDER / page).read_text() == PAGES[page](), "run `make docs`"


@pytest.mark.parametrize(
    "path", sorted(included_code.PAGES.glob("*.md")), ids=lambda path: path.stem
)
def test_code_on_pages_is_that_of_files(path: Path) -> None:
    page = path.read_text()
    assert included_code.fill_in(page) == page, "run `make docs`"


def test_code_of_a_page_is_replaced() -> None:
    page = 'before\n```toml title="pyproject.toml"\nOUTDATED\n```\nafter\n'
    filled = included_code.fill_in(page)
    assert "OUTDATED" not in filled
    assert 'name = "llmplug"' in filled
    assert included_code.fill_in(page.replace("OUTDATED\n", "")) == filled
    assert included_code.fill_in(filled) == filled
