"""How many requests may wait for an engine: the rest is told to come back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from llmplug.errors import Overloaded

# How much the newest interval weighs in the measured rate of starts.
RATE_WEIGHT = 0.2
MIN_RETRY_S = 1
MAX_RETRY_S = 60


class Ticket:
    """The place of one HTTP request, which may carry several prompts."""

    def __init__(self, admission: Admission, num_prompts: int) -> None:
        self._admission = admission
        self._num_waiting = num_prompts
        self.started_at: float | None = None  # clock of the admission, s

    def start(self) -> None:
        """Say that one prompt's first tokens came: it waits no longer."""
        if self._num_waiting > 0:
            self._num_waiting -= 1
            self._admission.leave(1, has_started=True)

    def close(self) -> None:
        """Give back what still waits; safe to call twice."""
        self._admission.leave(self._num_waiting, has_started=False)
        self._num_waiting = 0


class Admission:
    """Counts prompts between their arrival and their first token, and bounds them."""

    def __init__(self, max_waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_waiting = max_waiting
        self.num_waiting = 0
        self._clock = clock
        self._last_start: float | None = None
        self._start_interval_s = 1.0

    def enter(self, num_prompts: int) -> Ticket:
        """Take a place for each prompt of a request.

        Raises:
            Overloaded: the queue has no room for all of them.
        """
        if self.num_waiting + num_prompts > self.max_waiting:
            raise Overloaded(
                f"{self.num_waiting} prompts wait already and this server lets "
                f"{self.max_waiting} wait. Try again later.",
                retry_after_s=self.estimate_wait_s(),
            )
        self.num_waiting += num_prompts
        return Ticket(self, num_prompts)

    def leave(self, num_prompts: int, *, has_started: bool) -> None:
        """Free places; starts feed the measured rate."""
        self.num_waiting -= num_prompts
        if not has_started:
            return
        now = self._clock()
        if self._last_start is not None:
            newest = now - self._last_start
            self._start_interval_s += RATE_WEIGHT * (newest - self._start_interval_s)
        self._last_start = now

    def estimate_wait_s(self) -> int:
        """Seconds until half of the queue has started, by the measured rate."""
        estimate = self._start_interval_s * self.num_waiting / 2
        return max(MIN_RETRY_S, min(MAX_RETRY_S, math.ceil(estimate)))
