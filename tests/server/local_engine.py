"""A server of a tiny model whose engine runs in the server's own loop: no process, no socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from engine.tiny_engine import SAMPLERS, TinyModel

from llmplug import TokenizerFiles
from llmplug.chat.render import ChatRenderer
from llmplug.chat.tokenizer import Tokenizer
from llmplug.config import ResponsesConfig, ServerConfig
from llmplug.engine.limits import normalise
from llmplug.server.app import create_app, start_server, stop_server
from llmplug.server.engine_connection import ReplicaState
from llmplug.server.model_service import ModelService
from llmplug.server.service import Service
from llmplug.types import EngineReady, EngineStats, GenerateRequest, SequenceDelta
from tests.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS

SAMPLER_FIELDS = {name for spec in SAMPLERS for name in spec.params.model_fields}


class LocalEngine:
    """What the server needs of an engine's client, over an engine at hand."""

    def __init__(self, model: TinyModel, **changes: Any) -> None:
        self.engine = model.make_engine(**changes)
        self.state = "ready"
        self.loading = None
        self.failure = None
        self.stalled_s = 0.0
        self.replicas: tuple[ReplicaState, ...] = ()
        self._queues: dict[str, asyncio.Queue[SequenceDelta]] = {}
        self._stepper: asyncio.Task[None] | None = None

    @property
    def stats(self) -> EngineStats:
        return self.engine.stats

    async def start(self) -> None:
        """It runs already."""

    async def wait_ready(self) -> EngineReady:
        return self.engine.ready_message()

    async def stop(self) -> None:
        """Nothing runs between requests."""

    def dump_stacks(self) -> None:
        """There is no process."""

    async def abort(self, request_id: str, index: int | None = None) -> None:
        self.engine.abort(request_id, index)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        request = normalise(request, self.engine.limits)
        num_open = request.num_sequences
        queue = self._queues[request.request_id] = asyncio.Queue()
        try:
            self.engine.add(request)
            if self._stepper is None or self._stepper.done():
                self._stepper = asyncio.create_task(self._step())
            while num_open:
                delta = await queue.get()
                num_open -= delta.finish_reason is not None
                yield delta
        finally:
            del self._queues[request.request_id]
            self.engine.abort(request.request_id)

    async def _step(self) -> None:
        while self.engine.has_work:
            for delta in self.engine.step().deltas:
                if delta.request_id in self._queues:
                    self._queues[delta.request_id].put_nowait(delta)
            await asyncio.sleep(0)


@asynccontextmanager
async def serving(
    model: TinyModel, folder: Path, samplers: Any = (), **changes: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the model as `tiny`; yield a client of it."""
    files = TokenizerFiles(
        json=(folder / "tokenizer.json").read_text(),
        eos_token=SPECIAL_TOKENS[2],
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer = Tokenizer(files)
    service = Service(
        [
            ModelService(
                "tiny",
                tokenizer,
                ChatRenderer(tokenizer, CHAT_TEMPLATE),
                LocalEngine(model, **changes),
                sampler_fields=SAMPLER_FIELDS,
            )
        ],
        samplers,
    )
    app = create_app(service, ServerConfig(responses=ResponsesConfig(path="memory")))
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    server = await start_server(app, sock)
    service.start()
    try:
        async with asyncio.timeout(60):
            while not service.is_ready:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.002)
        async with httpx.AsyncClient(base_url=url, timeout=60.0) as http:
            yield http
    finally:
        await service.stop()
        await stop_server(server)
