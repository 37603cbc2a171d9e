"""The Sanic application, and the loop that runs it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sanic import Sanic

from llmplug.server import gate
from llmplug.server.admin import open_admin
from llmplug.server.admission import Admission
from llmplug.server.auth import open_key_ring
from llmplug.server.batches.start import open_batches
from llmplug.server.errors import OpenAIErrorHandler
from llmplug.server.flight_recorder import open_recorder
from llmplug.server.lifecycle import Lifecycle
from llmplug.server.listener import open_listener
from llmplug.server.no_room import FirstDoor, FirstDoorProtocol
from llmplug.server.open_requests import OpenRequests
from llmplug.server.reload import Reloader, apply_settings
from llmplug.server.responses.start import open_responses
from llmplug.server.routes import (
    chat,
    cohere,
    compaction,
    completions,
    conversations,
    description,
    embeddings,
    health,
    messages,
    metrics,
    models,
    pooling,
    responses,
    samplers,
    scores,
    stored_responses,
    tokenize,
)
from llmplug.server.tls import open_tls
from llmplug.server.traces import open_traces
from llmplug.server.watchdog import Watchdog

if TYPE_CHECKING:
    from sanic.server.async_server import AsyncioServer

    from llmplug.config import ServerConfig
    from llmplug.server.reload import Origin
    from llmplug.server.service import Service
    from llmplug.server.supervisor import Supervisor

log = logging.getLogger("llmplug.server")

_serial = itertools.count()  # Sanic wants a name of its own for every app of a process
# A reply that is not streamed sends nothing for as long as it takes; stalled readers have a
# deadline of their own in sse.py.
_RESPONSE_TIMEOUT_S = 24 * 3600
_BACKLOG = 1024  # connections that may wait to be accepted
_CLOSE_TIMEOUT_S = 2.0


def create_app(
    service: Service, settings: ServerConfig, origin: Origin | None = None
) -> Sanic[Any, Any]:
    """Build the application; nothing runs yet.

    Args:
        origin: what a reload reads again; None: the file of keys alone.
    """
    app = Sanic(
        f"llmplug-{next(_serial)}",
        error_handler=OpenAIErrorHandler(),
        configure_logging=False,
    )
    app.config.update(
        {
            "ACCESS_LOG": False,
            "AUTO_EXTEND": False,
            "FALLBACK_ERROR_FORMAT": "json",
            "KEEP_ALIVE_TIMEOUT": 75,
            "MOTD": False,
            "REQUEST_TIMEOUT": 30,
            "RESPONSE_TIMEOUT": _RESPONSE_TIMEOUT_S,
            "TOUCHUP": False,  # see serve
        }
    )
    app.ctx.service = service
    app.ctx.keys = open_key_ring(settings)
    app.ctx.admission = Admission(
        settings.max_waiting_requests,
        settings.max_running_bytes,
        num_models=len(service.models),
    )
    app.ctx.watchdog = Watchdog(service.find_stalls, service.dump_engine_stacks)
    app.ctx.lifecycle = Lifecycle(on_busy=app.ctx.watchdog.wake, on_idle=app.ctx.watchdog.rest)
    service.metrics.registry.register(OpenRequests(app))
    app.ctx.framings = {}  # by path; see framing.py
    apply_settings(app, settings)
    app.ctx.logs_requests = origin is None or origin.config.log.requests
    app.ctx.reloader = Reloader(app, origin)
    service.observers.is_stopping = lambda: app.ctx.lifecycle.is_stopping
    app.ctx.recorder = open_recorder(settings.flight_recorder)
    service.observers.add(app.ctx.recorder)
    if settings.traces is not None:
        open_traces(app, settings.traces)
    open_responses(app, settings.responses)
    open_batches(app, settings.batches)
    gate.install(app)
    for routes in (
        chat,
        completions,
        responses,
        compaction,
        stored_responses,
        conversations,
        messages,
        embeddings,
        pooling,
        scores,
        cohere,
        tokenize,
        models,
        samplers,
        description,
        health,
    ):
        routes.add_routes(app)
    if settings.metrics:
        metrics.add_routes(app)
    return app


def serve(
    app: Sanic[Any, Any], settings: ServerConfig, supervisor: Supervisor | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal skips the drain.

    Args:
        supervisor: the parent that starts this process again; None: nobody does.
    Raises:
        OSError: the address is in use or not ours.
        LlmplugError: no engine can start, or one cannot for what the config says.
    """
    # Sanic rewrites its own methods without the signals that nobody listens to: once a process.
    app.config.TOUCHUP = True
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(app, settings, supervisor))


async def _serve(
    app: Sanic[Any, Any], settings: ServerConfig, supervisor: Supervisor | None = None
) -> None:
    service: Service = app.ctx.service
    listener = open_listener(settings.host, settings.port, supervisor)
    tls = open_tls(settings.tls) if settings.tls is not None else None
    admin = open_admin(app, settings.admin)
    server = await start_server(app, listener, tls)
    host, port = listener.getsockname()[:2]
    log.info("listening on %s://%s:%d", "https" if tls else "http", host, port)
    first, second = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        if first.is_set() or (supervisor is not None and supervisor.is_gone):
            second.set()
        first.set()

    _on_signals(stop)
    _on_hangup(app.ctx.reloader.reload_or_log)
    app.ctx.watchdog.start()
    service.start()
    failed = asyncio.create_task(service.wait_failed())
    ready = asyncio.create_task(_tell_ready(service, supervisor))
    try:
        await _first_of(asyncio.create_task(first.wait()), failed)
        if not failed.cancelled():
            raise failed.result()
        drain = asyncio.create_task(app.ctx.lifecycle.drain(app.ctx.drain_s))
        await _first_of(drain, asyncio.create_task(second.wait()))
        if second.is_set():
            log.warning("second signal: not waiting for %d requests", app.ctx.lifecycle.num_running)
    finally:
        ready.cancel()
        await app.ctx.lifecycle.end()
        await service.stop()
        await app.ctx.watchdog.stop()
        await stop_server(server)
        if admin is not None:
            await asyncio.to_thread(admin.close)


async def start_server(
    app: Sanic[Any, Any], sock: socket.socket, tls: ssl.SSLContext | None = None
) -> AsyncioServer:
    """Listen on a bound socket; requests are answered when this returns."""
    server = await app.create_server(
        sock=sock,
        ssl=tls,
        protocol=FirstDoorProtocol,
        backlog=_BACKLOG,
        access_log=False,
        asyncio_server_kwargs={"start_serving": False},
    )
    if server is None:
        raise RuntimeError("Sanic made no server")
    await server.startup()  # type: ignore[no-untyped-call]
    app.ctx.first_door = FirstDoor(app)
    await server.before_start()  # type: ignore[no-untyped-call]
    await server.start_serving()  # type: ignore[no-untyped-call]
    await server.after_start()  # type: ignore[no-untyped-call]
    return server


async def stop_server(server: AsyncioServer) -> None:
    """Close the listener, then every connection."""
    await server.before_stop()  # type: ignore[no-untyped-call]
    closing = server.close()  # type: ignore[no-untyped-call]
    for connection in list(server.connections):
        connection.close_if_idle()
    for connection in list(server.connections):
        connection.abort()
    if closing is not None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await closing
    await server.after_stop()  # type: ignore[no-untyped-call]


async def _tell_ready(service: Service, supervisor: Supervisor | None) -> None:
    await service.wait_started()
    if supervisor is not None and service.is_ready:
        supervisor.tell_ready()


def _on_signals(react: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, react)


def _on_hangup(react: Callable[[], object]) -> None:
    """Have SIGHUP call `react`, in a thread."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, lambda: loop.run_in_executor(None, react))


async def _first_of(*tasks: asyncio.Task[Any]) -> None:
    """Wait for any of `tasks`, and cancel the others."""
    _, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop where it is installed (Sanic brings it, but not on every platform)."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
