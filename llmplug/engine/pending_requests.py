"""What an engine was asked and has not finished with, and who waits for what it says.

When the process that had them dies, requests that had sent nothing can be asked again: of the
process that follows, or, where there is another engine, of that one. What was in the batch at two
deaths is not asked a third time: it may be what kills.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmplug.errors import EngineError, EngineUnavailable, InvalidRequest, LlmplugError

if TYPE_CHECKING:
    from llmplug.types import GenerateRequest, PoolRequest, PoolResult, SequenceDelta

MAX_DEATHS = 2  # of processes, in whose batches a request was


class NothingSent(EngineUnavailable):
    """The engine died before it had said anything of a request: another one may be asked."""


@dataclass(slots=True)
class PendingRequest:
    """A request that its caller has not finished with."""

    request: GenerateRequest | PoolRequest
    # What the engine says of it: deltas of sequences, or one result of pooling; or why it ended.
    queue: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    has_sent: bool = False  # something was handed out: it cannot be asked again
    num_deaths: int = 0
    is_over: bool = False  # its caller will hear of an error as soon as it runs


class PendingRequests:
    """The open requests of one engine, by their ids.

    Args:
        keeps_unsent: whether those that had sent nothing when a process died wait for the next one;
            else they end with `NothingSent`.
    """

    def __init__(self, *, keeps_unsent: bool) -> None:
        self._keeps_unsent = keeps_unsent
        self._open: dict[str, PendingRequest] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._open

    def add(self, request: GenerateRequest | PoolRequest) -> PendingRequest:
        """Open a request.

        Raises:
            InvalidRequest: its id is in use.
        """
        if request.request_id in self._open:
            raise InvalidRequest(f"The request id {request.request_id!r} is in use.")
        entry = self._open[request.request_id] = PendingRequest(request)
        return entry

    def remove(self, request_id: str) -> None:
        """Forget a request."""
        del self._open[request_id]

    def hand_out(self, item: SequenceDelta | PoolResult) -> None:
        """Give what the engine says to who waits for it; nobody may, if it was just given up."""
        entry = self._open.get(item.request_id)
        if entry is not None:
            entry.has_sent = True
            entry.queue.put_nowait(item)

    def list_kept(self) -> Iterator[GenerateRequest | PoolRequest]:
        """Yield what the process that has just come up is to be asked."""
        return (entry.request for entry in self._open.values() if not entry.is_over)

    def end(self, error: LlmplugError) -> None:
        """End all of them."""
        for entry in self._open.values():
            _end(entry, error)

    def end_at_death(self, error: LlmplugError) -> None:
        """End those that cannot be asked again, or not of this engine."""
        for entry in self._open.values():
            entry.num_deaths += 1
            if entry.num_deaths >= MAX_DEATHS:
                _end(entry, make_suspect_error())
            elif entry.has_sent:
                _end(entry, error)
            elif not self._keeps_unsent:
                _end(entry, NothingSent(str(error)))


def make_suspect_error() -> EngineError:
    """What a request ends with that may be what kills engines."""
    return EngineError("the engine died twice while this request ran")


def _end(entry: PendingRequest, error: LlmplugError) -> None:
    entry.is_over = True
    entry.queue.put_nowait(error)
