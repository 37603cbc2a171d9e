"""One run of the engine's process, seen from its parent: spawn, send, receive, end."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from llmplug.engine.worker import LENGTH_BYTES
from llmplug.errors import EngineError, EngineUnavailable
from llmplug.types import (
    AbortRequest,
    AddRequest,
    EngineFailed,
    EngineLoading,
    EngineMessage,
    EngineReady,
    StepOutput,
    StopEngine,
)

MAX_SOCKET_PATH = 100  # bytes; the kernel's sockaddr_un takes 108 on Linux, 104 elsewhere
STOP_S = 5.0  # to end by itself, then again after SIGTERM


class EngineProcess:
    """A child process and the socket to it; used for one run, then closed."""

    def __init__(self, argv: Sequence[str], payload: bytes) -> None:
        self._argv = argv
        self._payload = payload
        self._folder = Path(tempfile.mkdtemp(prefix="llmplug-"))  # mode 0700
        self._context = zmq.asyncio.Context()
        self._socket: zmq.asyncio.Socket = self._context.socket(zmq.PAIR)
        self._process: asyncio.subprocess.Process | None = None
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[
            StepOutput | EngineReady | EngineLoading | EngineFailed
        ] = msgspec.msgpack.Decoder(EngineMessage)

    @property
    def pid(self) -> int | None:
        """Of the child, once started."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Open the socket and start the child.

        Raises:
            EngineError: the socket's path is too long, or the program cannot be run.
        """
        path = self._folder / "engine"
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise EngineError(f"{path} is too long for a socket; set TMPDIR to a shorter folder")
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.bind(f"ipc://{path}")
        path.chmod(0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                str(path),
                stdin=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C in the terminal is for the parent
            )
        except OSError as error:
            raise EngineError(f"cannot run {self._argv[0]}: {error}") from error
        stdin = self._process.stdin
        if stdin is None:
            raise EngineError("the engine's process has no stdin")
        stdin.write(len(self._payload).to_bytes(LENGTH_BYTES, "big") + self._payload)
        with suppress(ConnectionError):  # it died already: `wait` tells
            await stdin.drain()
        # stdin stays open: its end is how the child learns that we are gone.

    def send(self, command: AddRequest | AbortRequest | StopEngine) -> None:
        """Send a command to a child that has said that it is ready.

        Raises:
            EngineUnavailable: nobody is at the other end any more.
        """
        # A future that is done already, as NOBLOCK leaves nothing to wait for.
        sent = asyncio.ensure_future(
            self._socket.send(self._encoder.encode(command), flags=zmq.NOBLOCK)
        )
        error = sent.exception() if sent.done() else None
        if error is not None:
            raise EngineUnavailable("the engine's process is gone") from error

    async def receive(self) -> AsyncIterator[EngineMessage]:
        """Yield messages as they come, for ever."""
        while True:
            yield self._decoder.decode(await self._socket.recv())

    async def wait(self) -> int:
        """Wait until the child has ended; return its exit status, negative for a signal."""
        if self._process is None:
            return 0
        return await self._process.wait()

    async def stop(self, *, is_serving: bool) -> None:
        """End the child: ask if it is serving, then SIGTERM, then SIGKILL."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if is_serving:
            with suppress(EngineUnavailable):
                self.send(StopEngine())
        else:  # it would not listen before it is up
            process.terminate()
        for act in (process.terminate, process.kill):
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_S)
                return
            with suppress(ProcessLookupError):
                act()
        await process.wait()

    async def close(self) -> None:
        """Make sure that the child is gone, and remove the socket and its folder."""
        process = self._process
        if process is not None:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
            await process.wait()
            if process.stdin is not None:
                process.stdin.close()
        self._socket.close(linger=0)
        self._context.term()
        shutil.rmtree(self._folder, ignore_errors=True)
