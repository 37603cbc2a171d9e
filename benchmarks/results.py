"""Lines that the other modules printed, read again: for tables and plots."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Line = dict[str, Any]


def read_lines(paths: Iterable[Path]) -> list[Line]:
    """Return the lines of all files, in their order."""
    texts = [path.read_text() for path in paths]
    return [json.loads(line) for text in texts for line in text.splitlines() if line.strip()]


def pick(lines: Iterable[Line], kind: str, **wanted: Any) -> list[Line]:
    """Return the lines of a kind whose fields have these values."""
    return [
        line
        for line in lines
        if line["kind"] == kind and all(line.get(key) == value for key, value in wanted.items())
    ]


def values_of(lines: Iterable[Line], key: str) -> list[Any]:
    """Return the different values of a field, in the order of their first line."""
    return list(dict.fromkeys(line[key] for line in lines if key in line))


def reach(line: Line, *keys: str) -> Any:
    """Return a value that lies deep; None where a part of the way is missing."""
    value: Any = line
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def count_failures(line: Line) -> int:
    """Return how many requests of a row failed."""
    return sum(line.get("failures", {}).values())
