"""Sums of what engines count."""

from __future__ import annotations

import msgspec

from llmplug.types import EngineStats

# What is so at the moment; all else of EngineStats only grows.
GAUGES = ("num_running", "num_waiting", "num_pages_used", "num_pages")


def add_stats(*stats: EngineStats) -> EngineStats:
    """Add field by field."""
    names = EngineStats.__struct_fields__
    return EngineStats(**{name: sum(getattr(each, name) for each in stats) for name in names})


def without_gauges(stats: EngineStats) -> EngineStats:
    """Return what stays true of an engine when it is gone."""
    return msgspec.structs.replace(stats, **dict.fromkeys(GAUGES, 0))
