"""Gauges of what requests take of the server while they are worked on: all 0 when it is idle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from sanic import Sanic


class OpenRequests(Collector):
    """Reads the tables of a server at the moment of a scrape."""

    def __init__(self, app: Sanic[Any, Any]) -> None:
        self._context = app.ctx

    def collect(self) -> Iterator[Metric]:
        """Yield one family per table."""
        context = self._context
        for name, value, text in (
            ("requests_running", context.lifecycle.num_running, "Requests being worked on"),
            ("prompts_waiting", context.admission.num_waiting, "Prompts without a first token"),
            ("bodies_bytes", context.admission.num_bytes, "Bodies of the requests in work"),
        ):
            yield GaugeMetricFamily(f"llmplug_{name}", text, value=float(value))
        generations = GaugeMetricFamily(
            "llmplug_generations_running", "Generations begun and not ended", labels=["model"]
        )
        for model in context.service.models:
            in_flight = context.service.metrics_of(model).num_in_flight
            generations.add_metric([model.name], float(in_flight))
        yield generations
