"""One batch while it runs: lines are answered a few at a time, and each answer is kept at once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llmplug.server.batches.dispatch import answer_line, refuse_line
from llmplug.server.batches.file_store import write_file
from llmplug.server.batches.lines import Line, Problem, read_lines
from llmplug.server.batches.objects import (
    StoredBatch,
    StoredFile,
    change_status,
    note_problems,
)

if TYPE_CHECKING:
    from sanic import Sanic

    from llmplug.server.batches.batch_store import BatchStore
    from llmplug.server.batches.file_store import FileStore
    from llmplug.server.batches.objects import Fields

log = logging.getLogger("llmplug.server")

OUTPUT_PURPOSE = "batch_output"
# What becomes of lines that were not answered when their batch ended.
_UNANSWERED = {
    "expired": "The batch expired before this line was answered.",
    "cancelled": "The batch was cancelled before this line was answered.",
}


class BatchRun:
    """Answers one batch.

    Args:
        app: whose routes answer the lines.
        room: for lines that are answered at the same time, of all batches.
        num_workers: lines of this batch that may want room at the same time.
    """

    def __init__(
        self,
        app: Sanic[Any, Any],
        batch: StoredBatch,
        batches: BatchStore,
        files: FileStore,
        room: asyncio.Semaphore,
        *,
        num_workers: int,
    ) -> None:
        self.body = batch.body
        self._app = app
        self._batch = batch
        self._batches = batches
        self._files = files
        self._room = room
        self._num_workers = num_workers

    @property
    def is_cancelled(self) -> bool:
        """Whether its client wants no more of it."""
        return self.body["cancelling_at"] is not None

    async def cancel(self) -> Fields:
        """Answer no further line; those that are being answered still finish."""
        if not self.is_cancelled:
            self._tell(change_status(self.body, "cancelling"))
            await self._batches.update(self.body)
        return self.body

    async def work(self) -> None:
        """Answer the batch to its end, or until the server stops."""
        lines, problems = await self.read_lines()
        if problems:
            await self._batches.finish(note_problems(self.body, problems))
            return
        answered = await self._batches.read_answered(self._batch.id)
        await self._begin(len(lines), answered)
        left = iter([line for line in lines if line.number not in answered])
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._num_workers, len(lines))):
                group.create_task(self._answer(left))
        unanswered = await self._find_unanswered(lines)
        if unanswered and not self._has_ended:
            return  # the server stops, and the next one goes on
        await self._finish(unanswered)

    async def read_lines(self) -> tuple[list[Line], list[Problem]]:
        """Read the input file."""
        body = self.body
        file = await self._files.find(self._batch.owner, body["input_file_id"])
        if file is None:
            gone = "The input file has expired."
            return [], [Problem(0, gone, "file_not_found", "input_file_id")]
        data = await self._files.read(file)
        return await asyncio.to_thread(read_lines, data, body["endpoint"])

    # --- answering ------------------------------------------------------------------------------
    @property
    def _has_ended(self) -> bool:
        return self.is_cancelled or time.time() >= self.body["expires_at"]

    def _is_over(self) -> bool:
        return self._has_ended or self._app.ctx.lifecycle.is_ending

    def _tell(self, body: Fields) -> None:
        self.body = body

    async def _begin(self, num_lines: int, answered: dict[int, bool]) -> None:
        num_failed = sum(answered.values())
        body = self.body
        if body["status"] == "validating":
            body = change_status(body, "in_progress")
        counts = {
            "total": num_lines,
            "completed": len(answered) - num_failed,
            "failed": num_failed,
        }
        self._tell({**body, "request_counts": counts})
        await self._batches.update(self.body)

    async def _answer(self, left: Iterator[Line]) -> None:
        """Answer lines until there are none left, or the batch is over."""
        for line in left:
            async with self._room:
                answer = await answer_line(
                    self._app, self._batch.owner, line, self._is_over, self._batch.id
                )
            if answer is None:
                return
            await self._keep(line.number, answer.to_json(line), is_failed=answer.is_failed)

    async def _keep(self, number: int, answer: Fields, *, is_failed: bool) -> None:
        counts = self.body["request_counts"]
        key = "failed" if is_failed else "completed"
        self._tell({**self.body, "request_counts": {**counts, key: counts[key] + 1}})
        await self._batches.add_line(self.body, number, answer, is_failed=is_failed)

    # --- the end --------------------------------------------------------------------------------
    async def _find_unanswered(self, lines: Sequence[Line]) -> list[Line]:
        answered = await self._batches.read_answered(self._batch.id)
        return [line for line in lines if line.number not in answered]

    async def _finish(self, unanswered: Sequence[Line]) -> None:
        """Make the files, and say how it ended."""
        status = "completed"
        if self.is_cancelled:
            status = "cancelled"
        elif unanswered:
            status = "expired"
        for line in unanswered:
            refusal = refuse_line(line, f"batch_{status}", _UNANSWERED[status])
            await self._keep(line.number, refusal, is_failed=True)
        if status == "completed":
            self._tell(change_status(self.body, "finalizing"))
            await self._batches.update(self.body)
        output = await self._write_results("output", is_failed=False)
        errors = await self._write_results("error", is_failed=True)
        files = {"output_file_id": output, "error_file_id": errors}
        self._tell({**change_status(self.body, status), **files})
        await self._batches.finish(self.body)
        counts = self.body["request_counts"]
        log.info("the batch %s is %s: %s", self._batch.id, status, counts)

    async def _write_results(self, kind: str, *, is_failed: bool) -> str | None:
        """Make a file of answers in the order of their lines, and return its id; None: of none.

        The id is the same however often it is made: a server may be killed before the batch
        names it.
        """
        batch_id = self._batch.id
        file_id = f"file-{batch_id.removeprefix('batch_')}-{kind}"
        loop = asyncio.get_running_loop()

        def write(take: Callable[[bytes], Any]) -> None:
            after = 0
            while True:
                work = self._batches.read_page(batch_id, is_failed=is_failed, after=after)
                page = asyncio.run_coroutine_threadsafe(work, loop).result()
                if not page:
                    return
                take(b"".join(body + b"\n" for _, body in page))
                after = page[-1][0]

        num_bytes = await asyncio.to_thread(write_file, self._files.path_of(file_id), write)
        if not num_bytes:
            self._files.path_of(file_id).unlink()
            return None
        file = StoredFile(
            id=file_id,
            owner=self._batch.owner,
            purpose=OUTPUT_PURPOSE,
            filename=f"{batch_id}_{kind}.jsonl",
            num_bytes=num_bytes,
            created_at=int(time.time()),
            expires_at=self._files.choose_expiry(self._batch.output_lifetime_s),
        )
        await self._files.register(file)
        return file_id
