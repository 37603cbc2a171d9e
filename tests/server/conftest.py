"""A real server on a real socket, over a scripted engine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from sanic import Sanic

from llmplug.chat.channels import Dialect
from llmplug.config import BatchesConfig, ResponsesConfig, ServerConfig
from llmplug.pooling import Pooling
from llmplug.server.app import create_app, start_server, stop_server
from llmplug.server.model_service import GrammarCheck, ModelService
from llmplug.server.reload import Origin
from llmplug.server.service import Service
from llmplug.specs import Task

from .fake_engine import TOKENIZER, FakeEngine, FakeRenderer, Script

DEADLINE_S = 10.0


@dataclass
class Running:
    """A server that runs in this event loop."""

    url: str
    app: Sanic[Any, Any]
    service: Service
    engine: FakeEngine
    renderer: FakeRenderer
    http: httpx.AsyncClient = field(repr=False)

    @property
    def host_port(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.url.rsplit(":", 1)[1])

    @property
    def num_in_flight(self) -> int:
        model = self.service.models[0]
        return self.service.metrics_of(model).num_in_flight

    async def chat(self, **fields: Any) -> httpx.Response:
        return await self.http.post("/v1/chat/completions", json=chat_fields(**fields))

    async def complete(self, **fields: Any) -> httpx.Response:
        body = {"model": "toy", "prompt": "Once", **fields}
        return await self.http.post("/v1/completions", json=body)

    async def metric(self, name: str) -> str:
        """The lines of one metric."""
        text = (await self.http.get("/metrics")).text
        return "\n".join(line for line in text.splitlines() if line.startswith(name))


def chat_fields(**fields: Any) -> dict[str, Any]:
    return {"model": "toy", "messages": [{"role": "user", "content": "Hi"}], **fields}


StartServer = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start() -> AsyncIterator[StartServer]:
    """Start servers; all are stopped after the test, and nothing may be left running in them."""
    started = []

    async def start_one(
        script: Script | None = None,
        *,
        wait_ready: bool = True,
        sampler_fields: tuple[str, ...] = (),
        has_renderer: bool = True,
        dialect: Dialect | None = None,
        grammars: GrammarCheck | None = None,
        engine: FakeEngine | None = None,
        trusts_templates: bool = False,
        task: Task = "generate",
        pooling: Pooling | None = None,
        labels: tuple[str, ...] = (),
        model: ModelService | None = None,
        origin: Origin | None = None,
        **settings: Any,
    ) -> Running:
        engine = engine or FakeEngine(script)
        renderer = FakeRenderer()
        model = model or ModelService(
            "toy",
            TOKENIZER,
            renderer if has_renderer else None,
            engine,
            aliases=("org/toy",),
            sampler_fields=sampler_fields,
            created=1_700_000_000,
            dialect=dialect,
            grammars=grammars,
            trusts_templates=trusts_templates,
            task=task,
            pooling=pooling,
            labels=labels,
        )
        engine.task = task
        service = Service([model])
        settings = {
            "responses": ResponsesConfig(path="memory"),
            "batches": BatchesConfig(path="none"),
            **settings,
        }
        served = ServerConfig(**settings) if origin is None else origin.config.server
        app = create_app(service, served, origin)
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        port = sock.getsockname()[1]
        server = await start_server(app, sock)
        service.start()
        url = f"http://127.0.0.1:{port}"
        http = httpx.AsyncClient(base_url=url, timeout=DEADLINE_S)
        running = Running(url, app, service, engine, renderer, http)
        started.append((running, server))
        if wait_ready:
            await until(lambda: service.is_ready)
        return running

    yield start_one
    for running, server in started:
        await running.http.aclose()
        await running.service.stop()
        await stop_server(server)
        await until(lambda running=running: running.num_in_flight == 0)
        assert running.app.ctx.admission.num_waiting == 0
        assert running.engine.num_open == 0


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - the conditions belong to others
            await asyncio.sleep(0.002)
