"""How a check fails, and how it asks for a library that a running server does without."""

from __future__ import annotations

import importlib
from typing import Any


def expect(is_met: bool, advice: str) -> None:
    """Raise unless something holds; unlike `assert`, under `python -O` too.

    Args:
        is_met: whether it holds.
        advice: what was found, and what the plugin's author is to do.

    Raises:
        AssertionError: it does not hold.
    """
    if not is_met:
        raise AssertionError(advice)


def need(library: str) -> Any:
    """Import a library of the extra `test-kit`.

    Raises:
        ModuleNotFoundError: it is not installed; says what brings it.
    """
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this check needs {library}: pip install 'llmplug[test-kit]' brings it",
            name=error.name,
        ) from error
