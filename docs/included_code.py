"""Code on pages is that of files: `make docs` copies it in, and a test compares.

A block that begins with ```` ```python title="path" ```` holds that file of the project, whole.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "plugins"
_BLOCK = re.compile(r'^```(\w+) title="(\S+)"\n(?:.*?\n)??```$', re.MULTILINE | re.DOTALL)


def fill_in(page: str) -> str:
    """Return a page whose blocks hold what their files hold now."""

    def read(block: re.Match[str]) -> str:
        language, path = block.groups()
        code = (ROOT / path).read_text(encoding="utf-8").strip("\n")
        return f'```{language} title="{path}"\n{code}\n```'

    return _BLOCK.sub(read, page)


def fill_in_all() -> None:
    """Rewrite the pages that show code."""
    for path in sorted(PAGES.glob("*.md")):
        path.write_text(fill_in(path.read_text(encoding="utf-8")), encoding="utf-8")
