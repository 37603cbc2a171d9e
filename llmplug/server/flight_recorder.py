"""The last requests as numbers: how long, how sampled, how they ended; never what they said.

They are kept in memory, and written down when an engine dies: whatever killed it was among those
that ran. Nothing here can be turned back into a text: what is no number is left out, and of lists
the length is kept.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from llmplug import __version__
from llmplug.server.sqlite_thread import state_folder

if TYPE_CHECKING:
    from llmplug.config import FlightRecorderConfig
    from llmplug.engine.client import EngineEvent
    from llmplug.server.trail import Trail
    from llmplug.types import SamplingParams

log = logging.getLogger("llmplug.server")

FORMAT = 1  # of the report; grows when a key changes its meaning
MAX_EVENTS = 200
MAX_WHY_CHARS = 500
_PREFIX = "flight-"


class FlightRecorder:
    """Knows the requests that run, and the last ones that ended.

    Args:
        num_requests: of those that ended.
        folder: where a file is written when an engine dies; None: nowhere.
        num_files: that are kept there.
    """

    def __init__(self, num_requests: int, folder: Path | None, num_files: int) -> None:
        self._folder = folder
        self._num_files = num_files
        self._is_on = num_requests > 0
        self._running: dict[int, Trail] = {}
        self._ended: deque[dict[str, Any]] = deque(maxlen=num_requests)
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)

    def begin(self, trail: Trail) -> None:
        """A request begins."""
        if self._is_on:
            self._running[id(trail)] = trail

    def end(self, trail: Trail) -> None:
        """A request is over."""
        if self._running.pop(id(trail), None) is not None:
            self._ended.append(describe_trail(trail))

    def note_engine(self, model: str, event: EngineEvent, why: str) -> None:
        """An engine has come up, died, or is gone; called in the event loop."""
        told = {"at": time.time(), "model": model, "event": event, "why": why[:MAX_WHY_CHARS]}
        self._events.append(told)
        has_requests = bool(self._running or self._ended)  # none: a start that failed
        if event != "ready" and has_requests and self._folder is not None:
            report = self.report(f"the engine of {model}: {event}: {told['why']}")
            name = _name_file(model)
            asyncio.get_running_loop().run_in_executor(None, self._write, name, report)

    def report(self, why: str) -> dict[str, Any]:
        """Return all that is known, as plain values; from any thread.

        Args:
            why: it is asked for.
        """
        return {
            "format": FORMAT,
            "version": __version__,
            "at": time.time(),
            "why": why,
            "engines": list(self._events),
            "running": [describe_trail(trail) for trail in list(self._running.values())],
            "ended": list(self._ended),
        }

    def _write(self, name: str, report: dict[str, Any]) -> None:
        folder = self._folder
        if folder is None:
            return
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(report))
            for old in sorted(folder.glob(f"{_PREFIX}*.json"))[: -self._num_files]:
                old.unlink(missing_ok=True)
        except OSError as error:
            log.error("what the last requests looked like cannot be written: %s", error)
        else:
            log.warning("what the last requests looked like is in %s", folder / name)


def open_recorder(settings: FlightRecorderConfig) -> FlightRecorder:
    """Make the recorder that a config describes."""
    folder = None if settings.path == "none" else Path(settings.path).expanduser()
    if settings.path == "auto":
        folder = state_folder() / "flight"
    return FlightRecorder(settings.requests, folder, settings.files)


def describe_trail(trail: Trail) -> dict[str, Any]:
    """Write down a request in numbers and in words of ours."""
    receipt, usage = trail.receipt, trail.usage
    return {
        "id": trail.request_id,
        "route": trail.route,
        "model": trail.model,
        "key": trail.key,
        "began_at": trail.began_at,
        "seconds": trail.seconds,
        "template_s": receipt.template_s,
        "grammar_s": receipt.grammar_s,
        "queue_s": receipt.queue_s,
        "prefill_s": receipt.prefill_s,
        "decode_s": receipt.decode_s,
        "prompt_lengths": list(trail.prompt_lengths),
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "num_sequences": trail.num_sequences,
        "has_grammar": trail.has_grammar,
        "sampling": None if trail.sampling is None else _describe_sampling(trail.sampling),
        "outcome": trail.outcome,
        "abort_reason": trail.abort_reason,
        "error": trail.error_code,
        "finish_reasons": list(trail.finish_reasons),
    }


def _describe_sampling(sampling: SamplingParams) -> dict[str, Any]:
    """Keep numbers and switches as they are; of texts, lists and mappings, how many there are."""
    told: dict[str, Any] = {}
    for name, value in msgspec.structs.asdict(sampling).items():
        if isinstance(value, bool | int | float):
            told[name] = value
        elif isinstance(value, str | tuple | dict) and value:
            told[f"num_{name}"] = len(value)
        elif isinstance(value, msgspec.Struct):
            told[name] = True
    numbers = {key: each for key, each in sampling.extra.items() if isinstance(each, int | float)}
    return told | numbers


def _name_file(model: str) -> str:
    at = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return f"{_PREFIX}{at}-{re.sub(r'[^A-Za-z0-9.-]', '_', model)[:80]}.json"
