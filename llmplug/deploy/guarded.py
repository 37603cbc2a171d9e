"""A command of ours that runs for as long as whoever started it does."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmplug.deploy import guard
from llmplug.errors import EngineUnavailable

if TYPE_CHECKING:
    from llmplug.deploy.source import ServerSource

NUM_LAST_LINES = 20


class GuardedCommand:
    """`llmplug COMMAND --config ...` as a child process; it ends with `stop`, or with this process.

    Args:
        words: the command, and what follows its config.
        sets: overrides beside those of the source.
        environment: beside our own; nobody else on the machine can read it, as they can `words`.
    """

    def __init__(
        self,
        source: ServerSource,
        words: Sequence[str],
        sets: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        (self._name, *options) = words
        self._folder = tempfile.TemporaryDirectory(prefix="llmplug-", ignore_cleanup_errors=True)
        config = Path(self._folder.name, "config.yaml")  # in a folder of mode 0700
        config.write_text(source.config, encoding="utf-8")
        overrides = [word for each in (*source.sets, *sets) for word in ("--set", each)]
        ours = [sys.executable, "-m", "llmplug", self._name, "--config", str(config)]
        self._process = subprocess.Popen(  # noqa: S603 - our own programs
            [sys.executable, "-I", str(guard.__file__), *ours, *options, *overrides],
            cwd=source.folder if Path(source.folder).is_dir() else None,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._last_lines: deque[str] = deque(maxlen=NUM_LAST_LINES)
        self._reader = threading.Thread(target=self._copy_log, daemon=True)
        self._reader.start()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.wait()

    def check_alive(self) -> None:
        """Raise what the command said last if it has ended.

        Raises:
            EngineUnavailable: it has.
        """
        status = self._process.poll()
        if status is not None:
            self._reader.join(1.0)  # until it has read all
            last = "\n".join(self._last_lines)
            raise EngineUnavailable(f"llmplug {self._name} ended with status {status}:\n{last}")

    def stop(self, timeout_s: float) -> None:
        """Let it end, and end it after so many seconds; again does nothing."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()  # the command ends as its parent is gone
            self._process.wait()
        self._reader.join()
        self._folder.cleanup()

    def _copy_log(self) -> None:
        """Pass its log on to ours, and keep the end of it."""
        if self._process.stderr is None:
            return
        for line in self._process.stderr:
            text = line.decode(errors="replace")
            sys.stderr.write(text)
            self._last_lines.append(text.rstrip())
