"""Batches without a server: from a file of lines to a file of answers, a run or several."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from llmplug.config import BatchesConfig, ResponsesConfig, ServerConfig
from llmplug.errors import ConfigError
from llmplug.server.app import create_app
from llmplug.server.batches.dispatch import answer_line

if TYPE_CHECKING:
    from sanic import Sanic

    from llmplug.server.batches.dispatch import LineAnswer
    from llmplug.server.batches.lines import Line
    from llmplug.server.service import Service
    from llmplug.specs import Progress

NO_BOUND = 2**40


class AnswersFile:
    """The file of answers: what stands in it as a whole line is answered.

    It belongs to one process while that holds it open.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            ConfigError: it cannot be written, is another process' now, or is no file of answers.
        """
        self.num_failed = 0
        self.num_added = 0  # since it was opened
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from error
        self._file = os.fdopen(descriptor, "r+b")
        try:
            self.answered = self._read(path)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, line: Line, answer: LineAnswer) -> None:
        """Keep an answer: a process that is killed from now on has told it."""
        self.num_failed += answer.is_failed
        self.num_added += 1
        self._file.write(msgspec.json.encode(answer.to_json(line)) + b"\n")
        self._file.flush()

    def _read(self, path: Path) -> set[str]:
        """Read what is answered, and cut off what was not written to its end."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{path}: another process writes it") from None
        answered: set[str] = set()
        end = 0
        for number, text in enumerate(self._file, start=1):
            if not text.endswith(b"\n"):
                break
            try:
                told = msgspec.json.decode(text)
                answered.add(told["custom_id"])
                self.num_failed += told["response"]["status_code"] >= 400
            except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
                raise ConfigError(f"{path}, line {number}: no answer to a line") from None
            end += len(text)
        self._file.seek(end)
        self._file.truncate()
        return answered


async def answer_offline(
    service: Service,
    settings: ServerConfig,
    lines: Sequence[Line],
    answers: AnswersFile,
    *,
    at_once: int,
    progress: Progress,
) -> None:
    """Start the engines, answer lines, each answer kept at once, and stop the engines.

    Raises:
        LlmplugError: no engine can start, or one cannot for what the config says.
    """
    app = create_app(service, _choose_settings(settings))
    service.start()
    failed = asyncio.create_task(service.wait_failed())
    work = asyncio.create_task(_answer_all(app, lines, answers, at_once, progress))
    try:
        await asyncio.wait({failed, work}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise failed.result()
        await work
    finally:
        for task in (failed, work):
            task.cancel()
        await asyncio.gather(failed, work, return_exceptions=True)
        await service.stop()
        for stop in app.listeners["after_server_stop"]:  # Sanic calls them where it serves
            await stop(app, asyncio.get_running_loop())  # type: ignore[misc, call-arg]


async def _answer_all(
    app: Sanic[Any, Any],
    lines: Sequence[Line],
    answers: AnswersFile,
    at_once: int,
    progress: Progress,
) -> None:
    def is_over() -> bool:
        return any(model.client.state == "failed" for model in app.ctx.service.models)

    async def work(left: Iterator[Line]) -> None:
        for line in left:
            answer = await answer_line(app, "", line, is_over)
            if answer is None:
                return
            answers.add(line, answer)
            progress("answering", answers.num_added, len(lines))

    left = iter(lines)
    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(lines))):
            group.create_task(work(left))


def _choose_settings(settings: ServerConfig) -> ServerConfig:
    """Leave what shapes answers; nothing is stored, and nobody else must find room."""
    return ServerConfig(
        max_waiting_requests=NO_BOUND,
        max_running_bytes=NO_BOUND,
        strict_fields=settings.strict_fields,
        reasoning_fields=settings.reasoning_fields,
        responses=ResponsesConfig(path="memory"),
        batches=BatchesConfig(path="none"),
    )
