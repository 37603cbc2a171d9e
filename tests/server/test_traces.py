"""Spans say where the time of a request went, below the span of whoever asked, and no more."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import SpanKind, StatusCode

from llmplug.config import ServerConfig, TracesConfig
from llmplug.errors import ConfigError, EngineError
from llmplug.server.app import create_app, start_server, stop_server
from llmplug.server.model_service import ModelService
from llmplug.server.service import Service
from llmplug.server.traces import Tracer, open_traces

from .conftest import Running, StartServer, until
from .fake_engine import TOKENIZER, FakeEngine, fail_after, silent, speak

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "zebra"


def watch(server: Running, share: float = 1.0) -> InMemorySpanExporter:
    """Trace a server into memory."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBasedTraceIdRatio(share), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    server.service.observers.add(Tracer(provider))
    return exporter


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


async def ask(server: Running, flags: str = "01", **fields: Any) -> None:
    headers = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-{flags}", "X-Request-Id": "the-id"}
    body = {"model": "toy", "messages": [{"role": "user", "content": SECRET}], **fields}
    await server.http.post("/v1/chat/completions", json=body, headers=headers)


async def test_a_request_is_a_span_and_its_phases_lie_within(start: StartServer) -> None:
    server = await start(speak("abc", "def", cached=1))
    exporter = watch(server)
    await ask(server, temperature=0.5, seed=7, stop=[SECRET], n=2)
    spans = by_name(exporter)
    assert set(spans) == {"chat toy", "prepare", "queue", "prefill", "decode"}
    root = spans["chat toy"]
    assert root.kind is SpanKind.SERVER
    assert f"{root.context.trace_id:032x}" == TRACE_ID
    assert f"{root.parent.span_id:016x}" == SPAN_ID
    assert (
        dict(root.attributes).items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "toy",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.seed": 7,
            "gen_ai.request.choice.count": 2,
            "gen_ai.usage.output_tokens": 14,
            "gen_ai.usage.cache_read.input_tokens": 1,
            "gen_ai.response.finish_reasons": ("stop", "stop"),
            "http.route": "/v1/chat/completions",
            "llmplug.request_id": "the-id",
            "llmplug.outcome": "done",
        }.items()
    )
    order = [spans[name] for name in ("prepare", "queue", "prefill", "decode")]
    assert [span.parent.span_id for span in order] == [root.context.span_id] * 4
    moments = [root.start_time]
    for span in order:
        assert moments[-1] <= span.start_time <= span.end_time
        moments.append(span.end_time)
    assert moments[-1] <= root.end_time
    assert SECRET not in "".join(span.to_json() for span in spans.values())


async def test_errors_and_what_was_given_up(start: StartServer) -> None:
    server = await start(fail_after(EngineError("inside"), "a"))
    exporter = watch(server)
    await ask(server)
    root = by_name(exporter)["chat toy"]
    assert root.status.status_code is StatusCode.ERROR
    assert root.attributes["error.type"] == "engine_error"
    exporter.clear()
    server.engine.script = silent
    gone = asyncio.create_task(server.complete())
    await until(lambda: server.engine.num_open == 1)
    gone.cancel()
    await until(lambda: server.num_in_flight == 0)
    spans = by_name(exporter)
    assert set(spans) == {"text_completion toy", "prepare", "queue"}
    assert spans["text_completion toy"].attributes["llmplug.abort_reason"] == "client"
    assert spans["text_completion toy"].status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(("flags", "share", "count"), [("00", 1.0, 0), ("01", 0.0, 5)])
async def test_the_caller_decides_what_is_traced(
    start: StartServer, flags: str, share: float, count: int
) -> None:
    server = await start()
    exporter = watch(server, share)
    await ask(server, flags)
    assert len(exporter.get_finished_spans()) == count


@pytest.mark.parametrize("header", ["", "odd", "00-0-0-01", "zz" * 5000])
async def test_a_header_that_is_none_begins_a_trace(start: StartServer, header: str) -> None:
    server = await start()
    exporter = watch(server)
    body = {"model": "toy", "prompt": "a"}
    headers = {"traceparent": header[:4000]}
    answer = await server.http.post("/v1/completions", json=body, headers=headers)
    assert answer.status_code == 200
    assert by_name(exporter)["text_completion toy"].parent is None


async def test_vectors(start: StartServer) -> None:
    server = await start(task="embed")
    exporter = watch(server)
    await server.http.post("/v1/embeddings", json={"model": "toy", "input": ["abc", "de"]})
    spans = by_name(exporter)
    assert set(spans) == {"embeddings toy", "prepare"}
    assert spans["embeddings toy"].attributes["gen_ai.usage.input_tokens"] == 5
    assert "gen_ai.usage.output_tokens" not in spans["embeddings toy"].attributes


class Collector(BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    received: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append(({k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    received: list[tuple[dict[str, str], bytes]] = []
    server = HTTPServer(("127.0.0.1", 0), type("One", (Collector,), {"received": received}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1/traces", received
    server.shutdown()
    server.server_close()
    thread.join()


async def test_a_collector_gets_the_last_spans_when_the_server_stops(collector: Any) -> None:
    endpoint, received = collector
    traces = TracesConfig(endpoint=endpoint, headers=("X-Token: abc",), service="here")
    service = Service([ModelService("toy", TOKENIZER, None, FakeEngine())])
    app = create_app(service, ServerConfig(traces=traces))
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}/v1/completions"
    server = await start_server(app, sock)
    service.start()
    await until(lambda: service.is_ready)
    async with httpx.AsyncClient() as http:
        answer = await http.post(url, json={"model": "toy", "prompt": SECRET})
    assert answer.status_code == 200
    await service.stop()
    await stop_server(server)
    ((headers, body),) = received
    assert headers["x-token"] == "abc"
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    told = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert told["service.name"] == "here"
    (scope,) = resource.scope_spans
    assert {span.name for span in scope.spans} >= {"text_completion toy", "decode"}
    assert SECRET.encode() not in body


async def test_a_header_of_the_config_has_a_name(start: StartServer) -> None:
    server = await start()
    settings = TracesConfig(endpoint="http://127.0.0.1:1/v1/traces", headers=("secret",))
    with pytest.raises(ConfigError, match="name: value") as caught:
        open_traces(server.app, settings)
    assert "secret" not in str(caught.value)


PROGRAM = """
import sys
from llmplug.config import ServerConfig, TracesConfig
from llmplug.errors import ConfigError
from llmplug.server.app import create_app
from llmplug.server.service import Service
create_app(Service([]), ServerConfig())
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
sys.modules["opentelemetry"] = None
try:
    create_app(Service([]), ServerConfig(traces=TracesConfig(endpoint="http://x")))
except ConfigError as error:
    print(error)
"""


def test_nothing_is_imported_unless_it_is_asked_for() -> None:
    argv = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "pip install 'llmplug[otel]'" in done.stdout, done.stderr
