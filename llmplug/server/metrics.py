"""Prometheus metrics, in a registry of their own.

Gauges are read from the engines when somebody scrapes; nothing here runs per token but two
histogram observations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from llmplug.server.deltas import Usage
    from llmplug.types import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Small models answer within a millisecond, long prompts on a CPU take minutes.
_GAP_BUCKETS_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15,
    0.2, 0.3, 0.5, 0.75, 1, 2, 5,
)  # fmt: skip
_LATENCY_BUCKETS_S = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2,
    3, 5, 7.5, 10, 15, 20, 30, 60, 120, 300, 600, 1800,
)  # fmt: skip

StatsReader = Callable[[], Iterable[tuple[str, bool, "EngineStats | None"]]]


class EngineCollector(Collector):
    """Reads (model, is ready, stats) of every engine at the moment of a scrape."""

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

    def __init__(self, read: StatsReader) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield one family per gauge and counter."""
        rows = list(self._read())
        ready = GaugeMetricFamily("llmplug_ready", "Whether the engine is up", labels=["model"])
        for model, is_ready, _ in rows:
            ready.add_metric([model], float(is_ready))
        yield ready
        families = [(GaugeMetricFamily, each) for each in self._GAUGES]
        counters = [(CounterMetricFamily, each) for each in self._COUNTERS]
        for kind, (name, field, text) in [*families, *counters]:
            family = kind(f"llmplug_{name}", text, labels=["model"])
            for model, _, stats in rows:
                if stats is not None:
                    family.add_metric([model], float(getattr(stats, field)))
            yield family
        seconds = CounterMetricFamily(
            "llmplug_engine_seconds", "Seconds of all steps by phase", labels=["model", "phase"]
        )
        for model, _, stats in rows:
            for phase in self._PHASES if stats is not None else ():
                seconds.add_metric([model, phase], float(getattr(stats, f"{phase}_s")))
        yield seconds


class Metrics:
    """All metrics of one server."""

    def __init__(self, read_stats: StatsReader) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(read_stats))
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From admission to the first token", _LATENCY_BUCKETS_S
        )
        self.gap = self._histogram(
            "inter_token_seconds", "Between two deltas of one request", _GAP_BUCKETS_S
        )
        self.total = self._histogram(
            "request_seconds", "From admission to the last token", _LATENCY_BUCKETS_S
        )
        self.preparation = self._histogram(
            "preparation_seconds", "Rendering and tokenising a prompt", _LATENCY_BUCKETS_S
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of requests", "model")
        self.completion_tokens = self._counter(
            "completion_tokens", "Tokens sent in answers", "model"
        )
        self.cached_tokens = self._counter(
            "cached_prompt_tokens", "Prompt tokens that the prefix cache held", "model"
        )
        self.generations = self._counter(
            "generations", "Generations by outcome: done, abort, error", "model", "outcome"
        )
        self.parser_failures = self._counter(
            "parser_failures", "Answers that a parser of a dialect failed on", "model"
        )
        self.responses = self._counter(
            "responses", "HTTP responses; code: of the error, if any", "route", "status", "code"
        )

    def for_model(self, model: str) -> ModelMetrics:
        """The metrics that one model's requests write."""
        return ModelMetrics(self, model)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"llmplug_{name}", text, ["model"], buckets=buckets, registry=self.registry
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"llmplug_{name}", text, labels, registry=self.registry)


class ModelMetrics:
    """One model's share of the metrics, with its label bound."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.num_in_flight = 0  # generations that have begun and not ended; 0 when idle
        self._model = model
        self._first_token = metrics.first_token.labels(model)
        self._gap = metrics.gap.labels(model)
        self._total = metrics.total.labels(model)
        self._preparation = metrics.preparation.labels(model)
        self._prompt_tokens = metrics.prompt_tokens.labels(model)
        self._completion_tokens = metrics.completion_tokens.labels(model)
        self._cached_tokens = metrics.cached_tokens.labels(model)
        self._generations = metrics.generations
        self._parser_failures = metrics.parser_failures.labels(model)

    def begin(self) -> None:
        """A generation starts."""
        self.num_in_flight += 1

    def end(self, outcome: str, seconds: float, usage: Usage) -> None:
        """A generation ends, one way or another."""
        self.num_in_flight -= 1
        self._generations.labels(self._model, outcome).inc()
        self._prompt_tokens.inc(usage.prompt_tokens)
        self._completion_tokens.inc(usage.completion_tokens)
        self._cached_tokens.inc(usage.cached_tokens)
        if outcome == "done":
            self._total.observe(seconds)

    def count_parser_failure(self) -> None:
        """A parser of a dialect raised."""
        self._parser_failures.inc()

    def observe_first_token(self, seconds: float) -> None:
        """The first delta of a prompt came."""
        self._first_token.observe(seconds)

    def observe_gap(self, seconds: float) -> None:
        """A further delta came, so long after the one before."""
        self._gap.observe(seconds)

    def observe_preparation(self, seconds: float) -> None:
        """A prompt was rendered and tokenised."""
        self._preparation.observe(seconds)
