"""Who looks on while requests run: metrics, the flight recorder, traces."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from llmplug.server.errors import describe

if TYPE_CHECKING:
    from llmplug.engine.client import EngineEvent
    from llmplug.server.trail import Outcome, Trail

log = logging.getLogger("llmplug.server")


class Observer(Protocol):
    """Whoever keeps count of requests; it must not wait."""

    def begin(self, trail: Trail) -> None:
        """The engine is asked."""

    def end(self, trail: Trail) -> None:
        """It is over, one way or another; the trail stays as it is from now on."""

    def note_engine(self, model: str, event: EngineEvent, why: str) -> None:
        """The engine of a model has come up, died, or is gone; its requests are still open."""


class Observers:
    """All that look on; one that fails harms no request.

    Attributes:
        is_stopping: whether requests that are given up now are so because the server ends.
    """

    def __init__(self, *observers: Observer) -> None:
        self.is_stopping: Callable[[], bool] = lambda: False
        self._observers = list(observers)

    def add(self, observer: Observer) -> None:
        """Let another one look on."""
        self._observers.append(observer)

    def note_engine(self, model: str, event: EngineEvent, why: str) -> None:
        """Tell all of a turn in the life of an engine."""
        self._tell(lambda observer: observer.note_engine(model, event, why))

    @contextmanager
    def watch(self, trail: Trail) -> Iterator[None]:
        """Look on while the body asks the engine."""
        trail.began_at = time.time()
        trail.receipt.submitted_at = time.perf_counter()
        self._tell(lambda observer: observer.begin(trail))
        outcome: Outcome = "abort"
        try:
            yield
            outcome = "done"
        except Exception as error:
            outcome = "error"
            reply = describe(error)
            trail.error_code = reply.code or reply.kind
            raise
        finally:
            trail.outcome, trail.ended_at = outcome, time.perf_counter()
            if outcome == "abort":
                trail.abort_reason = "shutdown" if self.is_stopping() else "client"
            self._tell(lambda observer: observer.end(trail))

    def _tell(self, word: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                word(observer)
            except Exception:
                log.exception("%s failed; the request goes on", type(observer).__name__)
