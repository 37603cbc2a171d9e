"""Who may wait for an engine, and how many: the rest is told when to come back.

Everything here is counted before a prompt is rendered or tokenised; who finds no room whatever it
asks for is refused before its body is read (`check`; see no_room.py).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmplug.errors import Overloaded
from llmplug.server.record import record_of
from llmplug.server.trail import Trail

if TYPE_CHECKING:
    from sanic import Request

# How much the newest interval weighs in the measured rate of starts.
RATE_WEIGHT = 0.2
MIN_RETRY_S = 1
MAX_RETRY_S = 60
# Of the places, one caller with a key may take so many, and one model of several: the others find
# room.
MAX_SHARE = 0.75
BURST_S = 10.0  # a rate may be used up this far ahead, and one request at least


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """What one API key's holder may ask for at most; None: no bound of its own."""

    max_running: int | None = None  # requests at once
    per_minute: float | None = None  # requests


NO_LIMITS = CallerLimits()


@dataclass(slots=True)
class _Caller:
    """One API key's holder, while it has requests or a rate that is being used up."""

    num_waiting: int = 0  # prompts
    num_running: int = 0  # requests
    allowance: float = math.inf  # requests that its rate lets in now
    updated_at: float = 0.0


class Ticket:
    """The place of one HTTP request, which may carry several prompts."""

    def __init__(
        self, admission: Admission, caller: str, model: str, num_prompts: int, num_bytes: int
    ) -> None:
        self._admission = admission
        self._caller = caller
        self._model = model
        self._num_waiting = num_prompts
        self._num_bytes = num_bytes
        self._is_closed = False
        self.trail = Trail()  # of the request, to be filled in

    def start(self) -> None:
        """Say that one prompt's first tokens came: it waits no longer."""
        if self._num_waiting > 0:
            self._num_waiting -= 1
            self._admission.leave(self._caller, self._model, 1, has_started=True)

    def close(self) -> None:
        """Give back what still waits; safe to call twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._admission.leave(self._caller, self._model, self._num_waiting, has_started=False)
        self._num_waiting = 0
        self._admission.end(self._caller, self._num_bytes)


class Admission:
    """Counts prompts between their arrival and their first token, and bounds them.

    Args:
        max_waiting: prompts that may wait.
        max_bytes: of the bodies of all requests that are being answered.
        num_models: that are served.
    """

    def __init__(
        self,
        max_waiting: int,
        max_bytes: float = math.inf,
        *,
        num_models: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_waiting = max_waiting
        self.max_bytes = max_bytes
        self.num_waiting = 0
        self.num_bytes = 0
        self._num_models = num_models
        self._num_waiting_for: Counter[str] = Counter()  # prompts, by model
        self._clock = clock
        self._callers: dict[str, _Caller] = {}
        self._last_start: float | None = None
        self._start_interval_s = 1.0

    @property
    def num_callers(self) -> int:
        """Callers that something is known of."""
        return len(self._callers)

    def enter(
        self,
        num_prompts: int,
        *,
        num_bytes: int = 0,
        caller: str = "",
        model: str = "",
        limits: CallerLimits = NO_LIMITS,
    ) -> Ticket:
        """Take a place for each prompt of a request.

        Args:
            num_bytes: of its body.
            caller: whose request it is; empty: nobody is told apart.
            model: that it is for.
        Raises:
            Overloaded: the queue, or what this caller or this model may have of it, has no room for
                all of them.
        """
        known = self.check(num_prompts, num_bytes=num_bytes, caller=caller, limits=limits)
        self._check_model(model, num_prompts)
        if caller and limits.per_minute is not None:
            known.allowance -= 1
        self.num_waiting += num_prompts
        self.num_bytes += num_bytes
        self._num_waiting_for[model] += num_prompts
        known.num_waiting += num_prompts
        known.num_running += 1
        self._callers[caller] = known
        return Ticket(self, caller, model, num_prompts, num_bytes)

    def check(
        self, num_prompts: int, *, num_bytes: int, caller: str, limits: CallerLimits = NO_LIMITS
    ) -> _Caller:
        """See whether there is room, whatever the model; no place is taken.

        Returns:
            What is known of the caller.
        Raises:
            Overloaded: as `enter` would.
        """
        self._check_queue(num_prompts, num_bytes)
        known = self._callers.get(caller) or _Caller(updated_at=self._clock())
        if caller:
            self._check_caller(known, num_prompts, limits)
        return known

    def leave(self, caller: str, model: str, num_prompts: int, *, has_started: bool) -> None:
        """Free places; starts feed the measured rate."""
        self.num_waiting -= num_prompts
        self._num_waiting_for[model] -= num_prompts
        self._callers[caller].num_waiting -= num_prompts
        if not has_started:
            return
        now = self._clock()
        if self._last_start is not None:
            newest = now - self._last_start
            self._start_interval_s += RATE_WEIGHT * (newest - self._start_interval_s)
        self._last_start = now

    def end(self, caller: str, num_bytes: int) -> None:
        """Forget a request that is over."""
        self.num_bytes -= num_bytes
        known = self._callers[caller]
        known.num_running -= 1
        if not known.num_running and known.allowance == math.inf:
            del self._callers[caller]

    def estimate_wait_s(self) -> int:
        """Seconds until half of the queue has started, by the measured rate."""
        return _bound_wait(self._start_interval_s * self.num_waiting / 2)

    @property
    def _share(self) -> float:
        """Prompts of one caller, or for one model, that may wait."""
        return max(1, self.max_waiting * MAX_SHARE)

    def _check_queue(self, num_prompts: int, num_bytes: int) -> None:
        if self.num_waiting + num_prompts > self.max_waiting:
            raise Overloaded(
                f"{self.num_waiting} prompts wait already and this server lets "
                f"{self.max_waiting} wait. Try again later.",
                retry_after_s=self.estimate_wait_s(),
            )
        if self.num_bytes and self.num_bytes + num_bytes > self.max_bytes:
            raise Overloaded(
                f"The requests that are being answered have {self.num_bytes} bytes, and this "
                f"server lets them have {self.max_bytes}. Try again later.",
                retry_after_s=self.estimate_wait_s(),
            )

    def _check_model(self, model: str, num_prompts: int) -> None:
        """A model that stands still, or starts for a long time, leaves room for the others."""
        num_waiting = self._num_waiting_for[model]
        if self._num_models > 1 and num_waiting + num_prompts > self._share:
            raise Overloaded(
                f"{num_waiting} prompts wait for this model already, and other models must find "
                "room. Try again later.",
                retry_after_s=self.estimate_wait_s(),
            )

    def _check_caller(self, known: _Caller, num_prompts: int, limits: CallerLimits) -> None:
        if known.num_waiting + num_prompts > self._share:
            raise Overloaded(
                f"{known.num_waiting} prompts of this API key wait already, and others must find "
                "room. Try again later.",
                retry_after_s=self.estimate_wait_s(),
            )
        if limits.max_running is not None and known.num_running >= limits.max_running:
            raise Overloaded(
                f"This API key may have {limits.max_running} requests at once. Try again later.",
                retry_after_s=MIN_RETRY_S,
            )
        if limits.per_minute is not None:
            self._check_rate(known, limits.per_minute)

    def _check_rate(self, known: _Caller, per_minute: float) -> None:
        """What is not used of a rate adds up for a while."""
        most = max(1.0, per_minute * BURST_S / 60)
        now = self._clock()
        grown = known.allowance + (now - known.updated_at) * per_minute / 60
        known.allowance, known.updated_at = min(grown, most), now
        if known.allowance < 1:
            raise Overloaded(
                f"This API key may send {per_minute:g} requests a minute. Try again later.",
                retry_after_s=_bound_wait((1 - known.allowance) * 60 / per_minute),
            )


def admit(request: Request, num_prompts: int) -> Ticket:
    """Take a place for each prompt of an HTTP request; whoever calls this closes the ticket.

    Raises:
        Overloaded: there is no room, or its API key has used up what it may.
    """
    record, context = record_of(request), request.app.ctx
    ticket: Ticket = context.admission.enter(
        num_prompts,
        num_bytes=len(request.body),
        caller=record.caller,
        model=record.model,
        limits=context.keys.limits_of(record.caller),
    )
    ticket.trail = record.make_trail()
    return ticket


def _bound_wait(seconds: float) -> int:
    return max(MIN_RETRY_S, min(MAX_RETRY_S, math.ceil(seconds)))
