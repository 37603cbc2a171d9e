"""The batches that a server runs; those of a server that is gone are taken over."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from llmplug.errors import EngineUnavailable, LlmplugError, ModelNotFound
from llmplug.server.batches.objects import StoredBatch
from llmplug.server.batches.run import BatchRun
from llmplug.server.errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sanic import Sanic

    from llmplug.server.batches.batch_store import BatchStore
    from llmplug.server.batches.file_store import FileStore
    from llmplug.server.batches.lines import Line
    from llmplug.server.batches.objects import Fields
    from llmplug.server.batches.server_lock import ServerLock

log = logging.getLogger("llmplug.server")

MAX_RUNNING = 8  # batches, each of which holds its input in memory; others wait


class BatchRuns:
    """The batches that this server runs.

    Args:
        app: whose routes answer the lines.
        at_once: lines that are answered at the same time, of all batches.
    """

    def __init__(
        self,
        app: Sanic[Any, Any],
        batches: BatchStore,
        files: FileStore,
        lock: ServerLock,
        *,
        at_once: int,
    ) -> None:
        self._app = app
        self._batches = batches
        self._files = files
        self._lock = lock
        self._at_once = at_once
        self._room = asyncio.Semaphore(at_once)
        self._turns = asyncio.Semaphore(MAX_RUNNING)
        self._runs: dict[str, BatchRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, owner: str, body: Fields, output_lifetime_s: int | None) -> None:
        """Keep a new batch, and begin to answer it."""
        self._lock.hold()
        batch = StoredBatch(
            owner=owner, server=self._lock.name, output_lifetime_s=output_lifetime_s, body=body
        )
        await self._batches.add(batch)
        self._start(self._make_run(batch))

    async def resume(self) -> None:
        """Go on with what servers that are gone have left, where the models are served here."""
        for batch in await self._batches.list_unfinished():
            if batch.id in self._runs or self._lock.is_alive(batch.server):
                continue
            run = self._make_run(batch)
            lines, _ = await run.read_lines()
            if not await asyncio.to_thread(self._serves, lines):
                log.warning("the batch %s waits for a server that has its models", batch.id)
                continue
            self._lock.hold()
            if await self._batches.adopt(batch, self._lock.name):
                log.info("going on with the batch %s", batch.id)
                self._start(run)

    async def cancel(self, batch: StoredBatch) -> Fields:
        """End a batch, and return it.

        Raises:
            HttpError: 409, another server runs it.
        """
        if batch.id not in self._runs:
            await self.resume()
        run = self._runs.get(batch.id)
        if run is not None:
            return await run.cancel()
        found = await self._batches.find(batch.owner, batch.id)
        if found is None or not found.is_over:
            raise HttpError(409, "Another server runs this batch.", code="batch_elsewhere")
        return found.body

    async def stop(self) -> None:
        """End all runs; what is not answered waits for the next server."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._lock.release()

    def _make_run(self, batch: StoredBatch) -> BatchRun:
        return BatchRun(
            self._app, batch, self._batches, self._files, self._room, num_workers=self._at_once
        )

    def _serves(self, lines: Sequence[Line]) -> bool:
        """Whether the models of all lines are served here."""
        for line in lines:
            model = line.read_body().get("model")
            try:
                if isinstance(model, str):
                    self._app.ctx.service.find(model)
            except ModelNotFound:
                return False
            except EngineUnavailable:
                continue  # it should be served here
        return True

    def _start(self, run: BatchRun) -> None:
        batch_id = run.body["id"]
        self._runs[batch_id] = run
        task = asyncio.create_task(self._work(run), name=batch_id)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, run: BatchRun) -> None:
        batch_id = run.body["id"]
        try:
            async with self._turns:
                await run.work()
        except* LlmplugError as errors:
            log.error("the batch %s stands still: %s", batch_id, errors.exceptions[0])
        except* Exception:
            log.exception("the batch %s stands still", batch_id)
        finally:
            del self._runs[batch_id]
