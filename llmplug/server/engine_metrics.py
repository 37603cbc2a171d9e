"""Gauges and counters that engines keep, read at the moment of a scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmplug.server.replicas.routing import REASONS

if TYPE_CHECKING:
    from llmplug.server.engine_connection import ReplicaState
    from llmplug.types import EngineStats


class EngineRow(NamedTuple):
    """What is known of one model's engine."""

    model: str
    is_ready: bool
    stalled_s: float
    stats: EngineStats | None
    replicas: tuple[ReplicaState, ...] = ()


ReadEngines = Callable[[], Iterable[EngineRow]]


class EngineCollector(Collector):
    """Reads every engine when somebody scrapes."""

    _GAUGES = (
        ("running", "num_running", "Sequences in the running batch"),
        ("waiting", "num_waiting", "Sequences that wait in the engine"),
        ("cache_pages_used", "num_pages_used", "Pages of the key/value cache in use"),
        ("cache_pages", "num_pages", "Pages of the key/value cache"),
    )
    _COUNTERS = (
        ("engine_steps", "num_steps", "Steps of the engine"),
        ("preemptions", "num_preemptions", "Sequences put back to be computed again"),
        ("engine_prompt_tokens", "num_prompt_tokens", "Prompt tokens taken"),
        ("engine_generated_tokens", "num_generated_tokens", "Tokens generated"),
        ("engine_cached_tokens", "num_cached_tokens", "Prompt tokens found in the prefix cache"),
    )
    _PHASES = ("schedule", "run", "sample", "record")

    def __init__(self, read: ReadEngines) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield one family per gauge and counter."""
        rows = list(self._read())
        ready = GaugeMetricFamily("llmplug_ready", "Whether the engine is up", labels=["model"])
        stalled = GaugeMetricFamily(
            "llmplug_engine_stalled_seconds",
            "Since the last step, while there is work; 0 without",
            labels=["model"],
        )
        for row in rows:
            ready.add_metric([row.model], float(row.is_ready))
            stalled.add_metric([row.model], row.stalled_s)
        yield from (ready, stalled)
        families = [(GaugeMetricFamily, each) for each in self._GAUGES]
        counters = [(CounterMetricFamily, each) for each in self._COUNTERS]
        for kind, (name, field, text) in [*families, *counters]:
            family = kind(f"llmplug_{name}", text, labels=["model"])
            for row in rows:
                if row.stats is not None:
                    family.add_metric([row.model], float(getattr(row.stats, field)))
            yield family
        seconds = CounterMetricFamily(
            "llmplug_engine_seconds", "Seconds of all steps by phase", labels=["model", "phase"]
        )
        for row in rows:
            for phase in self._PHASES if row.stats is not None else ():
                value = float(getattr(row.stats, f"{phase}_s"))
                seconds.add_metric([row.model, phase], value)
        yield seconds
        yield from _describe_replicas(rows)


def _describe_replicas(rows: Iterable[EngineRow]) -> Iterator[Metric]:
    """Yield a family for each thing that is told of every replica; the rest is sums."""
    labels = ["model", "replica"]
    ready = GaugeMetricFamily("llmplug_replica_ready", "Whether the replica is up", labels=labels)
    tokens = GaugeMetricFamily(
        "llmplug_replica_tokens",
        "Of the replica's open requests: prompts, and what was generated",
        labels=labels,
    )
    routed = CounterMetricFamily(
        "llmplug_replica_requests",
        "Requests that the replica was asked, by why: prefix (it knows the beginning), load, moved "
        "(another one died)",
        labels=[*labels, "reason"],
    )
    for row in rows:
        for each in row.replicas:
            names = [row.model, str(each.number)]
            ready.add_metric(names, float(each.state == "ready"))
            tokens.add_metric(names, each.num_tokens)
            for reason in REASONS:
                routed.add_metric([*names, reason], each.num_routed.get(reason, 0))
    yield from (ready, tokens, routed)
