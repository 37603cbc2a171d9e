"""The process of one server: `llmplug serve`, on a port that this machine alone can reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llmplug.deploy.guarded import GuardedCommand
from llmplug.deploy.ports import hold_port

if TYPE_CHECKING:
    from llmplug.deploy.source import ServerSource

HOST = "127.0.0.1"


class ServerProcess:
    """A server as a child process; it ends with `stop`, or when this process does.

    Attributes:
        url: where it answers once it is ready.
    """

    def __init__(
        self,
        source: ServerSource,
        sets: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._port = hold_port(HOST)
        port = self._port.getsockname()[1]
        self.url = f"http://{HOST}:{port}"
        # What the proxies in front do, or a server of several cannot do.
        own = (f"server.host={HOST}", f"server.port={port}", "server.tls=null")
        self._command = GuardedCommand(source, ["serve"], (*sets, *own), environment)

    def check_alive(self) -> None:
        """Raise what the server said last if it has ended.

        Raises:
            EngineUnavailable: it has.
        """
        self._command.check_alive()

    def stop(self, timeout_s: float) -> None:
        """Let the server drain, and end it after so many seconds; again does nothing."""
        self._command.stop(timeout_s)
        self._port.close()
