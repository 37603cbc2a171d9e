"""Keeps the ranks of this machine running whose rank 0 is on another: `llmplug join`.

A rank ends with its rank 0; another one takes its place at once, imports what it needs, and waits
until there is a rank 0 again.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from llmplug.engine.ranks.link import EXIT_ORPHANED
from llmplug.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmplug.config import Config, ModelConfig

# Between two starts of a rank that fails: from the first to the most, doubled each time.
FIRST_PAUSE_S = 0.5
MOST_PAUSE_S = 10.0
_log = logging.getLogger("llmplug.join")


class RankKeeper:
    """Starts and restarts the ranks of one node.

    Args:
        arguments: of `llmplug rank`, which say where its config is.
        node: number of this machine, from 1 on.

    Raises:
        ConfigError: no model has ranks on such a node.
    """

    def __init__(self, config: Config, arguments: Sequence[str], node: int) -> None:
        self._arguments = tuple(arguments)
        self._node = node
        self._places = list(_list_places(config, node))
        self._is_stopping = threading.Event()
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        if not self._places:
            most = max(model.parallel.nodes for model in config.models)
            raise ConfigError(
                f"--node {node}: no model of this config has ranks there; "
                + (f"nodes are 1 to {most - 1}" if most > 1 else "none says parallel.nodes")
            )

    def run(self) -> None:
        """Keep them running until `stop`, which another thread or a signal calls."""
        threads = [
            threading.Thread(target=self._keep, args=(model, place))
            for model, place in self._places
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def stop(self) -> None:
        """End all of them."""
        self._is_stopping.set()
        with self._lock:
            processes = list(self._processes)
        for process in processes:
            with suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]  # it is a pipe

    def _keep(self, model: ModelConfig, place: int) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._is_stopping.is_set():
            status = self._run_one(model, place)
            if status == EXIT_ORPHANED:  # its rank 0 is gone, as is right
                pause_s = FIRST_PAUSE_S
                continue
            if not self._is_stopping.is_set():
                how = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
                _log.warning("rank at place %d of %s %s; another follows", place, model.name, how)
            self._is_stopping.wait(pause_s)
            pause_s = min(2 * pause_s, MOST_PAUSE_S)

    def _run_one(self, model: ModelConfig, place: int) -> int:
        """Run a rank to its end; return the exit status, negative for a signal."""
        where = ["--model", model.name, "--node", str(self._node), "--place", str(place)]
        argv = [sys.executable, "-m", "llmplug", "rank", *self._arguments, *where]
        with self._lock:
            if self._is_stopping.is_set():
                return EXIT_ORPHANED
            process = subprocess.Popen(argv, stdin=subprocess.PIPE)  # noqa: S603 - our own program
            self._processes.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._processes.discard(process)


def _list_places(config: Config, node: int) -> Iterator[tuple[ModelConfig, int]]:
    for model in config.models:
        if 1 <= node < model.parallel.nodes:
            yield from ((model, place) for place in range(model.parallel.ranks_per_node))
