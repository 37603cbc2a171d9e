"""Spans of requests for OpenTelemetry: `pip install llmplug[otel]`, and `server.traces`.

A request's spans are made when it is over, from the times that its trail has: while it runs, it
costs nothing. They hold numbers and names of ours; never a text.
Source of the names: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llmplug import __version__
from llmplug.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from sanic import Sanic

    from llmplug.config import TracesConfig
    from llmplug.engine.client import EngineEvent
    from llmplug.server.trail import Trail

QUEUE_SIZE = 4096  # spans that wait to be sent; more are dropped
BATCH_SIZE = 512
DELAY_MS = 5000
TIMEOUT_S = 10.0  # of one sending
_SAMPLING = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed")


class Tracer:
    """Makes the spans of each request that a model was asked."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = provider.get_tracer("llmplug", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, trail: Trail) -> None:
        """Nothing is to be done before the end."""

    def end(self, trail: Trail) -> None:
        """Make the spans, below the caller's if it has told of one."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        receipt = trail.receipt
        carrier = {"traceparent": trail.traceparent} if trail.traceparent else {}
        span = self._tracer.start_span(
            f"{_name_operation(trail)} {trail.model}",
            self._propagator.extract(carrier),
            SpanKind.SERVER,
            _describe(trail),
            start_time=_to_ns(trail, receipt.started_at),
        )
        if span.is_recording():
            if trail.outcome == "error":
                span.set_status(Status(StatusCode.ERROR))
            self._add_phases(trail, set_span_in_context(span))
        span.end(_to_ns(trail, trail.ended_at or receipt.started_at))

    def note_engine(self, model: str, event: EngineEvent, why: str) -> None:
        """Lives of engines are no spans."""

    def _add_phases(self, trail: Trail, parent: Context) -> None:
        for name, start, end in _find_phases(trail):
            span = self._tracer.start_span(name, parent, start_time=_to_ns(trail, start))
            span.end(_to_ns(trail, end))


def open_traces(app: Sanic[Any, Any], settings: TracesConfig) -> None:
    """Send the spans of an app's requests to a collector, and the last of them when it stops.

    Raises:
        ConfigError: OpenTelemetry is not installed, or a header is none.
    """
    provider = _make_provider(settings)
    app.ctx.service.observers.add(Tracer(provider))

    async def stop(*_: object) -> None:
        await asyncio.to_thread(provider.shutdown)

    app.after_server_stop(stop)


def _make_provider(settings: TracesConfig) -> TracerProvider:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ImportError as error:
        raise ConfigError(
            f"server.traces needs OpenTelemetry: pip install 'llmplug[otel]' ({error})"
        ) from error
    # All is said here: what is left out, its library would look for in the environment.
    exporter = OTLPSpanExporter(
        settings.endpoint, headers=_read_headers(settings.headers), timeout=TIMEOUT_S
    )
    resource = Resource({"service.name": settings.service, "service.version": __version__})
    sampler = ParentBasedTraceIdRatio(settings.share)
    provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(
        BatchSpanProcessor(exporter, QUEUE_SIZE, DELAY_MS, BATCH_SIZE, TIMEOUT_S * 1000)
    )
    return provider


def _read_headers(lines: tuple[str, ...]) -> dict[str, str]:
    headers = {"user-agent": f"llmplug/{__version__}"}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ConfigError("server.traces.headers: expected 'name: value'")
        headers[name.strip().lower()] = value.strip()
    return headers


def _name_operation(trail: Trail) -> str:
    if trail.sampling is None:
        return "embeddings"
    return "text_completion" if trail.route == "/v1/completions" else "chat"


def _describe(trail: Trail) -> dict[str, str | int | float | list[str]]:
    usage, sampling = trail.usage, trail.sampling
    told: dict[str, str | int | float | list[str] | None] = {
        "gen_ai.operation.name": _name_operation(trail),
        "gen_ai.provider.name": "llmplug",
        "gen_ai.request.model": trail.model,
        "gen_ai.response.model": trail.model,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "http.route": trail.route,
        "llmplug.request_id": trail.request_id,
        "llmplug.key": trail.key or None,
        "llmplug.outcome": trail.outcome,
        "llmplug.abort_reason": trail.abort_reason,
        "error.type": trail.error_code or None,
    }
    if sampling is not None:
        told |= {f"gen_ai.request.{name}": getattr(sampling, name) for name in _SAMPLING}
        told["gen_ai.request.max_tokens"] = sampling.max_tokens
        told["gen_ai.request.choice.count"] = trail.num_sequences
        told["gen_ai.usage.output_tokens"] = usage.completion_tokens
        told["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens
        told["gen_ai.response.finish_reasons"] = list(trail.finish_reasons)
    return {name: value for name, value in told.items() if value is not None}


def _find_phases(trail: Trail) -> Iterator[tuple[str, float, float]]:
    """Say what a request went through: name, and begin and end in time.perf_counter."""
    receipt, ended_at = trail.receipt, trail.ended_at
    asked_at = receipt.submitted_at
    if asked_at is None or ended_at is None:
        return
    yield "prepare", receipt.started_at, asked_at
    if trail.sampling is None:
        return
    if receipt.first_token_at is None or receipt.last_token_at is None:
        yield "queue", asked_at, ended_at  # or prefill: the engine said nothing
        return
    begun_at = min(asked_at + (receipt.queue_s or 0.0), receipt.first_token_at)
    yield "queue", asked_at, begun_at
    yield "prefill", begun_at, receipt.first_token_at
    yield "decode", receipt.first_token_at, receipt.last_token_at


def _to_ns(trail: Trail, moment: float) -> int:
    """Turn time.perf_counter into nanoseconds since 1970."""
    asked_at = trail.receipt.submitted_at or trail.receipt.started_at
    return int((trail.began_at + moment - asked_at) * 1e9)
