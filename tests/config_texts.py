"""Configs that tests write, and what is said of them."""

from __future__ import annotations

import pytest

from llmplug.config import Config, explain, parse
from llmplug.errors import ConfigError

MODEL = "models:\n  - source: a\n"


def complaint(text: str, *sets: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "x.yaml", sets)
    return str(caught.value)


def values(config: Config) -> dict[str, str]:
    return {row.key: row.value for row in explain(config)}
