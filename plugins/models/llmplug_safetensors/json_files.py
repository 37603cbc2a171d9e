"""Reading the small files of a model folder; every error is a CheckpointError."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llmplug import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


def read_text(path: Path) -> str | None:
    """Read a UTF-8 file; None where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file; None where there is none."""
    text = read_text(path)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged JSON: {error}") from error


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is no such file."""
    value = read_json(path)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds {type(value).__name__}, not a JSON object")
    return value
