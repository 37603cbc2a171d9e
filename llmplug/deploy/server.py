"""The process of one server: `llmplug serve`, on a port that this machine alone can reach."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmplug.config import Config, parse
from llmplug.deploy import guard
from llmplug.errors import ConfigError, EngineUnavailable

HOST = "127.0.0.1"
NUM_LAST_LINES = 20
# The section of a config that no server reads, as it is mostly written.
_DEPLOY_SECTION = re.compile(r"^deploy:.*?(?=^[^\s#]|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ServerSource:
    """What a server is started with, the same on each node.

    Attributes:
        config: text of the config file; `${NAME}` is read from the environment of its node.
        sets: overrides, as after `--set`.
        folder: where relative paths begin, if the node has such a folder.
    """

    config: str
    sets: tuple[str, ...]
    folder: str


def make_source(config: str, sets: Sequence[str], folder: str) -> ServerSource:
    """Say what servers are started with.

    What is Ray's to know is left out, as a change of that alone need not start servers anew.

    Raises:
        ConfigError: something in the config is wrong, or for a single server.
    """
    sets = tuple(each for each in sets if not each.startswith("deploy."))
    whole = parse(config, sets=sets)
    rest = _DEPLOY_SECTION.sub("", config)
    try:
        is_all = _for_servers(parse(rest, sets=sets)) == _for_servers(whole)
    except ConfigError:
        is_all = False
    return ServerSource(rest if is_all else config, (*sets, *_keep_apart(whole)), folder)


def _keep_apart(config: Config) -> Iterator[str]:
    """Yield the overrides that keep servers of one node out of each other's files and ports."""
    stores = {"batches": "none", "responses": "memory"}
    for name, instead in stores.items():
        path = getattr(config.server, name).path
        if path not in {"auto", instead}:
            where = f"server.{name}.path"
            raise ConfigError(f"{where}: servers of a cluster share no files; say {instead}")
        yield f"server.{name}.path={instead}"
    yield "server.admin.port=null"


def _for_servers(config: Config) -> dict[str, Any]:
    return config.model_dump(exclude={"deploy"})


class ServerProcess:
    """A server as a child process; it ends with `stop`, or when this process does.

    Attributes:
        url: where it answers once it is ready.
    """

    def __init__(self, source: ServerSource) -> None:
        # Bound and never listened on: nobody else is given the port, and whoever reuses addresses,
        # as our servers do, can listen there.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind((HOST, 0))
        port = self._port.getsockname()[1]
        self.url = f"http://{HOST}:{port}"
        self._folder = tempfile.TemporaryDirectory(prefix="llmplug-", ignore_cleanup_errors=True)
        config = Path(self._folder.name, "config.yaml")  # in a folder of mode 0700
        config.write_text(source.config, encoding="utf-8")
        # What the proxies in front do, or a server of several cannot do.
        own = (f"server.host={HOST}", f"server.port={port}", "server.tls=null")
        sets = [word for each in (*source.sets, *own) for word in ("--set", each)]
        server = [sys.executable, "-m", "llmplug", "serve", "--config", str(config), *sets]
        self._process = subprocess.Popen(  # noqa: S603 - our own programs
            [sys.executable, "-I", str(guard.__file__), *server],
            cwd=source.folder if Path(source.folder).is_dir() else None,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._last_lines: deque[str] = deque(maxlen=NUM_LAST_LINES)
        self._reader = threading.Thread(target=self._copy_log, daemon=True)
        self._reader.start()

    def check_alive(self) -> None:
        """Raise what the server said last if it has ended.

        Raises:
            EngineUnavailable: it has.
        """
        status = self._process.poll()
        if status is not None:
            self._reader.join(1.0)  # until it has read all
            last = "\n".join(self._last_lines)
            raise EngineUnavailable(f"llmplug serve ended with status {status}:\n{last}")

    def stop(self, timeout_s: float) -> None:
        """Let the server drain, and end it after so many seconds; again does nothing."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()  # the server ends as its parent is gone
            self._process.wait()
        self._reader.join()
        self._port.close()
        self._folder.cleanup()

    def _copy_log(self) -> None:
        """Pass its log on to ours, and keep the end of it."""
        if self._process.stderr is None:
            return
        for line in self._process.stderr:
            text = line.decode(errors="replace")
            sys.stderr.write(text)
            self._last_lines.append(text.rstrip())
