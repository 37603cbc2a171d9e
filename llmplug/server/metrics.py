"""Prometheus metrics, in a registry of their own.

Gauges are read from the engines when somebody scrapes; nothing here runs per token but two
histogram observations. No label is what a client wrote: models and keys are the config's, routes,
codes and reasons the program's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from llmplug import __version__
from llmplug.server.engine_metrics import EngineCollector, ReadEngines

if TYPE_CHECKING:
    from llmplug.engine.client import EngineEvent
    from llmplug.server.trail import Trail

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
_TOKEN_BUCKETS = (
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000,
    200_000, 500_000, 1_000_000,
)  # fmt: skip


class Metrics:
    """All metrics of one server; the first of those who look on."""

    def __init__(self, read_engines: ReadEngines) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(read_engines))
        ProcessCollector(registry=self.registry)
        info = Gauge("llmplug_info", "Always 1", ["version"], registry=self.registry)
        info.labels(__version__).set(1)
        self._add_times()
        self._add_counts()
        self._models: dict[str, ModelMetrics] = {}

    def for_model(self, model: str) -> ModelMetrics:
        """The metrics that one model's requests write."""
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = ModelMetrics(self, model)
        return found

    def begin(self, trail: Trail) -> None:
        """An engine is asked."""
        self.for_model(trail.model).num_in_flight += 1

    def end(self, trail: Trail) -> None:
        """A request to an engine is over."""
        self.for_model(trail.model).end(trail)

    def note_engine(self, model: str, event: EngineEvent, why: str) -> None:
        """An engine has come up, died, or is gone."""
        self.engine_events.labels(model, event).inc()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _add_times(self) -> None:
        times = _LATENCY_BUCKETS_S
        self.queue = self._histogram(
            "queue_seconds", "What a prompt waited in the engine for its first step", times
        )
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From admission to the first token", times
        )
        self.gap = self._histogram(
            "inter_token_seconds", "Between two deltas of one request", _GAP_BUCKETS_S
        )
        self.total = self._histogram("request_seconds", "From admission to the last token", times)
        self.preparation = self._histogram(
            "preparation_seconds", "Rendering and tokenising a prompt", times
        )
        self.prompt_lengths = self._histogram(
            "prompt_length_tokens", "Tokens of one prompt", _TOKEN_BUCKETS
        )
        self.answer_lengths = self._histogram(
            "answer_length_tokens", "Tokens sent in one reply, of all its choices", _TOKEN_BUCKETS
        )

    def _add_counts(self) -> None:
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of requests", "model")
        self.completion_tokens = self._counter(
            "completion_tokens", "Tokens sent in answers", "model"
        )
        self.cached_tokens = self._counter(
            "cached_prompt_tokens", "Prompt tokens that the prefix cache held", "model"
        )
        self.generations = self._counter(
            "generations", "Requests to engines by outcome: done, abort, error", "model", "outcome"
        )
        self.choices = self._counter(
            "choices", "Answers by why they ended: stop, length, tool_calls", "model", "reason"
        )
        self.aborts = self._counter(
            "aborts",
            "Requests given up or cut short: client (it went away), shutdown, deadline",
            *("model", "reason"),
        )
        self.errors = self._counter(
            "errors", "Requests that ended with an error, by its code", "model", "code"
        )
        self.parser_failures = self._counter(
            "parser_failures", "Answers that a parser of a dialect failed on", "model"
        )
        self.engine_events = self._counter(
            "engine_events",
            "Turns in the lives of engines: ready, death, gone (not started again)",
            *("model", "event"),
        )
        self.key_requests = self._counter(
            "key_requests", "Requests to engines by API key and outcome", "model", "key", "outcome"
        )
        self.key_tokens = self._counter(
            "key_tokens",
            "Tokens by API key and kind: prompt, cached (of the prompt), completion",
            *("model", "key", "kind"),
        )
        self.responses = self._counter(
            "responses", "HTTP responses; code: of the error, if any", "route", "status", "code"
        )

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
        self._metrics = metrics
        self._model = model
        self._queue = metrics.queue.labels(model)
        self._first_token = metrics.first_token.labels(model)
        self._gap = metrics.gap.labels(model)
        self._total = metrics.total.labels(model)
        self._preparation = metrics.preparation.labels(model)
        self._prompt_lengths = metrics.prompt_lengths.labels(model)
        self._answer_lengths = metrics.answer_lengths.labels(model)
        self._parser_failures = metrics.parser_failures.labels(model)

    def end(self, trail: Trail) -> None:
        """A request ends, one way or another."""
        metrics, model = self._metrics, self._model
        self.num_in_flight -= 1
        metrics.generations.labels(model, trail.outcome).inc()
        for reason in trail.finish_reasons:
            metrics.choices.labels(model, reason).inc()
        if trail.abort_reason is not None:
            metrics.aborts.labels(model, trail.abort_reason).inc()
        if trail.error_code:
            metrics.errors.labels(model, trail.error_code).inc()
        if trail.outcome == "done":
            self._total.observe(trail.seconds)
            self._observe_lengths(trail)
        self._count_tokens(trail)

    def count_parser_failure(self) -> None:
        """A parser of a dialect raised."""
        self._parser_failures.inc()

    def observe_first_token(self, seconds: float, queue_s: float) -> None:
        """The first delta of a prompt came."""
        self._first_token.observe(seconds)
        self._queue.observe(queue_s)

    def observe_gap(self, seconds: float) -> None:
        """A further delta came, so long after the one before."""
        self._gap.observe(seconds)

    def observe_preparation(self, seconds: float) -> None:
        """A prompt was rendered and tokenised."""
        self._preparation.observe(seconds)

    def _observe_lengths(self, trail: Trail) -> None:
        for length in trail.prompt_lengths:
            self._prompt_lengths.observe(length)
        if trail.sampling is not None:
            self._answer_lengths.observe(trail.usage.completion_tokens)

    def _count_tokens(self, trail: Trail) -> None:
        metrics, usage, model = self._metrics, trail.usage, self._model
        metrics.key_requests.labels(model, trail.key, trail.outcome).inc()
        for kind, counter, count in (
            ("prompt", metrics.prompt_tokens, usage.prompt_tokens),
            ("cached", metrics.cached_tokens, usage.cached_tokens),
            ("completion", metrics.completion_tokens, usage.completion_tokens),
        ):
            counter.labels(model).inc(count)
            metrics.key_tokens.labels(model, trail.key, kind).inc(count)
