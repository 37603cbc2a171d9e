"""The admin listener: health, metrics and a few levers, on an address of its own.

A thread of the standard library's server answers, so that neither load nor a stalled event loop
delays it. It listens on this machine only, unless a key with the scope `admin` is asked for.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import msgspec

from llmplug import __version__
from llmplug.errors import ConfigError
from llmplug.server.auth import check_admin_key
from llmplug.server.errors import ErrorReply, describe, is_unforeseen
from llmplug.server.framing import OPENAI
from llmplug.server.metrics import CONTENT_TYPE as METRICS_TYPE
from llmplug.server.record import PROBE_PATHS
from llmplug.server.routes.health import describe_health
from llmplug.server.watchdog import dump_stacks

if TYPE_CHECKING:
    from sanic import Sanic

    from llmplug.config import AdminConfig
    from llmplug.server.auth import KeyRing

log = logging.getLogger("llmplug.server")

CLOSE_TIMEOUT_S = 0.5
READ_TIMEOUT_S = 10.0  # a connection that says nothing is closed
_UNKNOWN = ErrorReply(
    404, "There is no such admin endpoint.", "invalid_request_error", "unknown_url"
)


@dataclass(frozen=True, slots=True)
class AdminReply:
    """What an admin route answers."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


AdminRoute = Callable[[], AdminReply]


def open_admin(app: Sanic[Any, Any], settings: AdminConfig) -> AdminListener | None:
    """Start the admin listener that a config describes; None: it wants none.

    Raises:
        ConfigError: others could reach it, and no key has the scope `admin`.
        OSError: the address is in use or not ours.
    """
    if settings.port is None:
        return None
    keys: KeyRing = app.ctx.keys
    check_admin_key(settings, keys)
    address = settings.host, settings.port
    listener = AdminListener(address, make_routes(app), keys, PROBE_PATHS)
    listener.start()
    log.info("admin listener on http://%s:%d", *listener.address)
    return listener


def make_routes(app: Sanic[Any, Any]) -> dict[tuple[str, str], AdminRoute]:
    """What the admin listener answers."""

    def show_health() -> AdminReply:
        status, body = describe_health(app)
        return as_reply(body, status)

    def show_metrics() -> AdminReply:
        return AdminReply(app.ctx.service.metrics.render(), content_type=METRICS_TYPE)

    def show_stacks() -> AdminReply:
        return AdminReply(dump_stacks().encode(), content_type="text/plain; charset=utf-8")

    def reload() -> AdminReply:
        done = app.ctx.reloader.reload()
        return as_reply(
            {
                "status": "reloaded",
                "changed": done.changed,
                "needs_restart": done.needs_restart,
            }
        )

    def show_flight() -> AdminReply:
        return as_reply(app.ctx.recorder.report("asked for"))

    def drain() -> AdminReply:
        app.ctx.lifecycle.pause()
        return as_reply({"status": "draining", "running": app.ctx.lifecycle.num_running})

    def resume() -> AdminReply:
        app.ctx.lifecycle.resume()
        return show_health()

    return {
        ("GET", "/live"): lambda: as_reply({"status": "live"}),
        ("GET", "/ready"): show_health,
        ("GET", "/health"): show_health,
        ("GET", "/version"): lambda: as_reply({"version": __version__}),
        ("GET", "/metrics"): show_metrics,
        ("GET", "/stacks"): show_stacks,
        ("GET", "/flight"): show_flight,
        ("POST", "/reload"): reload,
        ("POST", "/drain"): drain,
        ("POST", "/resume"): resume,
    }


class AdminListener:
    """Serves `routes` from a thread of its own, from `start` to `close`.

    Args:
        address: host and port; port 0 takes any that is free.
        routes: (method, path) -> what answers; called in a thread, one per request.
        keys: a key with the scope `admin` is asked for if there is any.
        open_paths: paths that need no key.

    Raises:
        OSError: the address is in use or not ours.
    """

    def __init__(
        self,
        address: tuple[str, int],
        routes: Mapping[tuple[str, str], AdminRoute],
        keys: KeyRing,
        open_paths: frozenset[str],
    ) -> None:
        handler = type(
            "Handler", (_Handler,), {"routes": routes, "keys": keys, "open_paths": open_paths}
        )
        self._server = ThreadingHTTPServer(address, handler)
        self._server.daemon_threads = True
        # Without an interval it sleeps until somebody calls; `close` does.
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(None,), name="admin"
        )

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close(self) -> None:
        """Listen no longer."""
        shutdown = threading.Thread(target=self._server.shutdown)
        shutdown.start()
        while shutdown.is_alive():
            with suppress(OSError), socket.create_connection(self.address, CLOSE_TIMEOUT_S):
                shutdown.join(CLOSE_TIMEOUT_S)
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    routes: Mapping[tuple[str, str], AdminRoute]
    keys: KeyRing
    open_paths: frozenset[str]
    server_version = "llmplug"
    sys_version = ""
    timeout = READ_TIMEOUT_S

    def do_GET(self) -> None:
        """Answer a GET."""
        self._answer()

    def do_POST(self) -> None:
        """Answer a POST; a body is not read, and ends the connection."""
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
        """Say nothing: probes are too many to log."""

    def _answer(self) -> None:
        reply = self._find_reply()
        self.send_response(reply.status)
        for name, value in {
            "Content-Type": reply.content_type,
            "Content-Length": str(len(reply.body)),
            **reply.headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def _find_reply(self) -> AdminReply:
        path = self.path.partition("?")[0]
        try:
            if path not in self.open_paths and self.keys.has_scope("admin"):
                self.keys.identify(self.headers.get, "admin")
            route = self.routes.get((self.command, path))
            if route is None:
                return _refuse(_UNKNOWN)
            return route()
        except ConfigError as error:  # whoever administers may read what is wrong with a config
            log.error("%s %s: %s", self.command, path, error)
            return _refuse(ErrorReply(409, str(error), "invalid_request_error", "config_error"))
        except Exception as error:
            if is_unforeseen(error):
                log.exception("an admin request failed")
            return _refuse(describe(error))


def as_reply(body: Any, status: int = 200) -> AdminReply:
    """A JSON reply."""
    return AdminReply(msgspec.json.encode(body), status)


def _refuse(reply: ErrorReply) -> AdminReply:
    return AdminReply(OPENAI.error_body(reply, ""), reply.status, headers=reply.headers)
