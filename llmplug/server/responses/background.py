"""Responses that run on without a client: what they tell goes into the store as they go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from llmplug.errors import EngineUnavailable
from llmplug.server.errors import ErrorReply, describe, is_unforeseen
from llmplug.server.responses.conversations import extend_conversation
from llmplug.server.responses.store import StoredResponse
from llmplug.server.responses.writer import ResponseEvent
from llmplug.server.schema.responses_reply import write_error

if TYPE_CHECKING:
    from llmplug.server.generation import Generation
    from llmplug.server.lifecycle import Lifecycle
    from llmplug.server.responses.input_items import Item
    from llmplug.server.responses.store import ConversationStore, ResponseStore
    from llmplug.server.responses.writer import ResponseWriter

log = logging.getLogger("llmplug.server")

BEAT_S = 1.0  # a response that is written says so at least as often
# One that was not heard of for so long has lost its server: it is failed by whoever asks for it.
LOST_AFTER_S = 15.0
POLL_S = 0.25  # between two looks for events of another process


class BackgroundRuns:
    """The responses that this process writes in the background, and those of others, followed."""

    def __init__(
        self, store: ResponseStore, conversations: ConversationStore, lifecycle: Lifecycle
    ) -> None:
        self._store = store
        self._conversations = conversations
        self._lifecycle = lifecycle
        self._runs: dict[str, _Run] = {}

    async def start(
        self, owner: str, writer: ResponseWriter, generation: Generation, items: Sequence[Item]
    ) -> None:
        """Store a response as queued, and begin to write it.

        The generation's ticket is its own from here on.
        """
        events = writer.queue()
        stored = StoredResponse(owner=owner, body=writer.response, input=items)
        await self._store.save(stored, events)
        run = _Run(self._store, stored, writer, generation)
        self._runs[writer.id] = run
        run.task = asyncio.create_task(self._work(run))
        await run.has_begun.wait()  # a task that is cancelled before would end without a word

    async def cancel(self, owner: str, response_id: str) -> StoredResponse | None:
        """End a response, here or in another process, and return what became of it."""
        run = self._runs.get(response_id)
        stored = await self.load(owner, response_id)
        if stored is None or stored.is_finished:
            return stored
        if run is not None:
            await run.cancel()
        else:
            body = {**stored.body, "status": "cancelled"}
            await self._store.end(replace(stored, body=body), partial(_make_last, body))
        return await self._store.load(owner, response_id)

    async def load(self, owner: str, response_id: str) -> StoredResponse | None:
        """Return a response; one that lost its server is failed."""
        stored = await self._store.load(owner, response_id)
        is_lost = (
            stored is not None
            and not stored.is_finished
            and response_id not in self._runs
            and stored.alive_at < time.time() - LOST_AFTER_S
        )
        if stored is None or not is_lost:
            return stored
        lost = ErrorReply(500, "The server that wrote this response has ended.", "server_error")
        body = {**stored.body, "status": "failed", "error": write_error(lost)}
        await self._store.end(replace(stored, body=body), partial(_make_last, body))
        return await self._store.load(owner, response_id)

    async def follow(
        self, owner: str, response_id: str, after: int
    ) -> AsyncGenerator[ResponseEvent, None]:
        """Yield the events of a response as they come, those with a number above `after`."""
        while True:
            run = self._runs.get(response_id)
            news = run.news if run is not None else None
            # Asked before the events are read: what is finished now has all of its events.
            is_over = run is None and await self._is_over(owner, response_id)
            for event in await self._store.read_events(response_id, after):
                yield event
                after = event.number
            if is_over:
                return
            if news is not None:
                await news.wait()
            else:
                await asyncio.sleep(POLL_S)

    async def _is_over(self, owner: str, response_id: str) -> bool:
        stored = await self.load(owner, response_id)
        return stored is None or stored.is_finished

    async def stop(self) -> None:
        """End what still runs; each response says that it failed."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, run: _Run) -> None:
        try:
            with self._lifecycle.working():
                if await run.work():
                    await extend_conversation(self._conversations, run.stored)
        except Exception:
            log.exception("a response in the background could not be stored")
        finally:
            self._runs.pop(run.stored.id, None)
            run.tell()


class _Run:
    """One response while it is written."""

    def __init__(
        self,
        store: ResponseStore,
        stored: StoredResponse,
        writer: ResponseWriter,
        generation: Generation,
    ) -> None:
        self.stored = stored
        self.news = asyncio.Event()  # set, and replaced, when there are new events in the store
        self.task: asyncio.Task[None] | None = None
        self.has_begun = asyncio.Event()
        self._store = store
        self._writer = writer
        self._generation = generation
        self._pending: list[ResponseEvent] = []
        self._has_pending = asyncio.Event()
        self._is_cancelled = False

    async def cancel(self) -> None:
        """End it for its client; returns when that is stored."""
        self._is_cancelled = True
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})

    def tell(self) -> None:
        """Wake those who follow."""
        self.news.set()
        self.news = asyncio.Event()

    async def work(self) -> bool:
        """Write the response to its end, whatever that is; False: nobody wants it any more."""
        self.has_begun.set()
        keeper = asyncio.create_task(self._keep())
        try:
            last = await self._write()
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        return await self._store.update(self.stored, [*self._pending, *last])

    async def _write(self) -> list[ResponseEvent]:
        """Write; return the last events."""
        writer = self._writer
        try:
            async with aclosing(self._generation.deltas()) as deltas:
                async for delta in deltas:
                    if writer.response["status"] == "queued":
                        self._add(writer.start())
                        await self._store.update(self.stored)
                    self._add(writer.take(delta))
            return writer.finish(self._generation.usage)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            if self._is_cancelled:
                return writer.cancel()
            return writer.fail(describe(EngineUnavailable("The server is shutting down.")))
        except Exception as error:
            if is_unforeseen(error):
                log.error("a response in the background failed", exc_info=error)
            return writer.fail(describe(error))

    def _add(self, events: list[ResponseEvent]) -> None:
        self._pending += events
        self._has_pending.set()

    async def _keep(self) -> None:
        """Put events into the store, as many at once as came meanwhile."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._has_pending.wait()
            self._has_pending.clear()
            batch = list(self._pending)
            is_wanted = await self._store.append_events(self.stored.id, batch)
            del self._pending[: len(batch)]
            self.tell()
            if not is_wanted:  # cancelled or deleted by another process
                self._is_cancelled = True
                if self.task is not None:
                    self.task.cancel()
                return


def _make_last(body: dict[str, object], number: int) -> ResponseEvent:
    """The last event of a response, told by another than its writer."""
    kind = "response.failed" if body["status"] == "failed" else "response.incomplete"
    data = {"type": kind, "sequence_number": number, "response": body}
    return ResponseEvent(number, kind, msgspec.json.encode(data))
