"""Ask the grammar process whether a grammar can be followed, before its request is admitted."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from llmplug.errors import EngineUnavailable, GrammarError, Overloaded
from llmplug.grammar import encode_grammar
from llmplug.server.grammar_process import LENGTH_BYTES, Trial, Verdict, frame_message

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from llmplug.grammar import Node

CACHE_BYTES = 8 * 2**20  # of verdicts: 16 bytes for each, and its words
VERDICT_BYTES = 200  # what one costs beside its words
MAX_GRAMMAR_BYTES = 4 * 2**20
MAX_WAITING = 64
log = logging.getLogger("llmplug.server")


class GrammarChecker:
    """One model's grammar process, and what it has said.

    Args:
        argv: the program to run; it calls `run_grammar_process`.
        payload: what it reads from stdin first.
    """

    def __init__(self, argv: Sequence[str], payload: bytes) -> None:
        self._argv = argv
        self._payload = payload
        self._process: Process | None = None
        self._starting = asyncio.Lock()
        self._ids = itertools.count()
        self._pending: dict[int, asyncio.Future[str | None]] = {}
        self._by_key: dict[bytes, asyncio.Future[str | None]] = {}
        self._verdicts: OrderedDict[bytes, str | None] = OrderedDict()
        self._num_bytes = 0
        self._reader: asyncio.Task[None] | None = None

    async def check(self, node: Node, param: str) -> None:
        """Try a grammar, or remember what came of it.

        Raises:
            GrammarError: it cannot be followed; the words are the backend's, `param` is given.
            Overloaded: too many grammars wait to be tried.
            EngineUnavailable: the process that tries them is gone.
        """
        try:
            data = encode_grammar(node)
        except RecursionError:
            raise GrammarError(f"'{param}' is nested too deeply.", param=param) from None
        if len(data) > MAX_GRAMMAR_BYTES:
            raise GrammarError(
                f"'{param}' is {len(data)} bytes long as a grammar; at most {MAX_GRAMMAR_BYTES} "
                "are taken.",
                param=param,
            )
        key = hashlib.blake2b(data, digest_size=16).digest()
        if key in self._verdicts:
            self._verdicts.move_to_end(key)
            error = self._verdicts[key]
        else:
            error = await self._try(key, data)
        if error is not None:
            raise GrammarError(f"'{param}': {error}", param=param)

    async def start(self) -> None:
        """Start the process if it does not run."""
        async with self._starting:
            if self._process is not None and self._process.returncode is None:
                return
            self._process = await asyncio.create_subprocess_exec(
                *self._argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            self._pending = {}  # of this process: the end of the one before it is not theirs
            self._write(self._payload)
            self._reader = asyncio.create_task(self._read(self._process, self._pending))

    async def rest(self) -> None:
        """End the process while nobody waits for it; the next grammar starts another."""
        if not self._by_key:
            await self.stop()

    async def stop(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def _try(self, key: bytes, data: bytes) -> str | None:
        waiting = self._by_key.get(key)
        if waiting is None:
            if len(self._by_key) >= MAX_WAITING:
                raise Overloaded("Too many grammars wait to be compiled.", retry_after_s=1)
            waiting = asyncio.get_running_loop().create_future()
            waiting.add_done_callback(lambda done: self._forget(key, done))
            self._by_key[key] = waiting
            await self._send(data, waiting)
        error = await asyncio.shield(waiting)
        self._remember(key, error)
        return error

    def _forget(self, key: bytes, done: asyncio.Future[str | None]) -> None:
        self._by_key.pop(key, None)
        if not done.cancelled():
            done.exception()  # whoever asked may have gone away

    async def _send(self, data: bytes, waiting: asyncio.Future[str | None]) -> None:
        number = next(self._ids)
        try:
            await self.start()
            self._pending[number] = waiting
            self._write(msgspec.msgpack.encode(Trial(number, data)))
        except OSError as error:
            self._pending.pop(number, None)
            waiting.set_exception(EngineUnavailable(f"No grammar can be tried now: {error}"))

    def _write(self, data: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(frame_message(data))

    async def _read(self, process: Process, pending: dict[int, asyncio.Future[str | None]]) -> None:
        """Pass verdicts on until the process ends; who still waits then is told."""
        stdout = process.stdout
        try:
            while stdout is not None:
                size = int.from_bytes(await stdout.readexactly(LENGTH_BYTES), "big")
                verdict = msgspec.msgpack.decode(await stdout.readexactly(size), type=Verdict)
                waiting = pending.pop(verdict.id, None)
                if waiting is None or waiting.done():
                    continue
                if verdict.is_busy:
                    waiting.set_exception(
                        Overloaded("There is no time to compile the grammar now.", retry_after_s=1)
                    )
                else:
                    waiting.set_result(verdict.error)
        except asyncio.IncompleteReadError:
            pass
        status = await process.wait()
        if self._process is process:
            log.warning("the grammar process ended with status %d; the next one starts it", status)
        for waiting in pending.values():
            if not waiting.done():
                waiting.set_exception(EngineUnavailable("The grammar process ended. Try again."))

    def _remember(self, key: bytes, error: str | None) -> None:
        if key in self._verdicts:
            return
        self._verdicts[key] = error
        self._num_bytes += VERDICT_BYTES + len(error or "")
        while self._num_bytes > CACHE_BYTES:
            _, words = self._verdicts.popitem(last=False)
            self._num_bytes -= VERDICT_BYTES + len(words or "")
