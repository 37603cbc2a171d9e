"""The pages that are written from the code say what the code says."""

from __future__ import annotations

import sys

import pytest

from docs.write_reference import FOLDER, PAGES


@pytest.mark.parametrize("page", PAGES)
def test_reference_page_is_up_to_date(page: str) -> None:
    if page == "cli.md" and sys.version_info >= (3, 13):
        pytest.skip("argparse lays its help out differently since Python 3.13")
    assert (FOLDER / page).read_text() == PAGES[page](), "run `make docs`"
