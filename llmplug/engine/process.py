"""One run of the engine's process, seen from its parent: spawn, send, receive, end."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import msgspec
import zmq
import zmq.asyncio

from llmplug.engine.worker import LENGTH_BYTES
from llmplug.errors import EngineError, EngineUnavailable
from llmplug.types import (
    EngineCommand,
    EngineMessage,
    StopEngine,
)

if TYPE_CHECKING:
    from types import TracebackType

MAX_SOCKET_PATH = 100  # bytes; the kernel's sockaddr_un takes 108 on Linux, 104 elsewhere
STOP_S = 5.0  # to end by itself, then again after SIGTERM


class EngineProcess:
    """A child process and the socket to it; used for one run, then closed.

    The child starts with the constructor, outside of any event loop, so that it can import what
    takes long before its parent knows what to tell it. Whoever makes one calls `close`, or
    `discard` where no loop runs, as a `with` block does at its end.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        """Start the child.

        Raises:
            EngineError: the socket's path is too long, or the program cannot be run.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="llmplug-"))  # mode 0700
        try:
            self._path = _check_length(self._folder / "engine")
            self._child = _spawn([*argv, str(self._path)])
        except EngineError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self._has_ended = asyncio.Event()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[EngineMessage] = msgspec.msgpack.Decoder(
            EngineMessage
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._child.pid

    async def start(self, payload: bytes) -> None:
        """Open the socket and tell the child what to do."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._await_end, args=(loop,), daemon=True).start()
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.bind(f"ipc://{self._path}")
        self._path.chmod(0o600)
        # In a thread: the pipe takes 64 KiB, and the child reads when it has imported all.
        message = len(payload).to_bytes(LENGTH_BYTES, "big") + payload
        await asyncio.to_thread(_write, self._stdin, message)
        # stdin stays open: its end is how the child learns that we are gone.

    def send(self, command: EngineCommand) -> None:
        """Send a command to a child that has said that it is ready.

        Raises:
            EngineUnavailable: nobody is at the other end any more.
        """
        socket = self._open_socket()
        # A future that is done already, as NOBLOCK leaves nothing to wait for.
        sent = asyncio.ensure_future(socket.send(self._encoder.encode(command), flags=zmq.NOBLOCK))
        error = sent.exception() if sent.done() else None
        if error is not None:
            raise EngineUnavailable("the engine's process is gone") from error

    async def receive(self) -> AsyncIterator[EngineMessage]:
        """Yield messages as they come, for ever."""
        socket = self._open_socket()
        while True:
            yield self._decoder.decode(await socket.recv())

    async def wait(self) -> int:
        """Wait until the child has ended; return its exit status, negative for a signal."""
        await self._has_ended.wait()
        return self._child.wait()

    async def stop(self, *, is_serving: bool) -> None:
        """End the child: ask if it is serving, then SIGTERM, then SIGKILL."""
        if self._child.poll() is not None:
            return
        if is_serving:
            with suppress(EngineUnavailable):
                self.send(StopEngine())
        else:  # it would not listen before it is up
            self._child.terminate()
        for act in (self._child.terminate, self._child.kill):
            with suppress(TimeoutError):
                await asyncio.wait_for(self.wait(), STOP_S)
                return
            act()
        await self.wait()

    async def close(self) -> None:
        """Make sure that the child is gone, and remove the socket and its folder."""
        self._child.kill()
        if self._context is not None and self._socket is not None:
            await self.wait()
            self._socket.close(linger=0)
            self._context.term()
        self.discard()

    def discard(self) -> None:
        """Do as `close`, for a child that nobody has started to talk to; twice does no harm."""
        self._child.kill()
        self._child.wait()
        with suppress(BrokenPipeError):
            self._stdin.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _stdin(self) -> IO[bytes]:
        stdin = self._child.stdin
        if stdin is None:
            raise EngineError("the engine's process has no stdin")
        return stdin

    def _open_socket(self) -> zmq.asyncio.Socket:
        if self._socket is None:
            raise EngineUnavailable("the engine's process has not been started")
        return self._socket

    def _await_end(self, loop: asyncio.AbstractEventLoop) -> None:
        self._child.wait()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._has_ended.set)


def _check_length(path: Path) -> Path:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise EngineError(f"{path} is too long for a socket; set TMPDIR to a shorter folder")
    return path


def _spawn(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 - our own program, no shell
            argv,
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal is for the parent
        )
    except OSError as error:
        raise EngineError(f"cannot run {argv[0]}: {error}") from error


def _write(stdin: IO[bytes], message: bytes) -> None:
    with suppress(BrokenPipeError):  # it died already: `wait` tells
        stdin.write(message)
        stdin.flush()
