"""Two ends between rank 0 and another rank: whole messages, and a sign of either's end."""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING

from llmplug.engine.ranks.seal import TAG_BYTES

if TYPE_CHECKING:
    from llmplug.engine.ranks.seal import Seal

STDIN = 0
EXIT_ORPHANED = 3  # as of an engine whose server is gone
LENGTH_BYTES = 8  # big-endian, before each message
# Far more than any message has: what claims to be longer is none.
MAX_MESSAGE_BYTES = 2**28
PART_BYTES = 2**16  # taken at once of a message, whose length may be a lie
# Hanging up is told without being asked for; of a network, that the other end says no more is not.
_HUNG_UP = getattr(select, "POLLRDHUP", 0)
_log = logging.getLogger(__name__)


class Link:
    """One end. The other one's is closed by the system when its process ends, however it does.

    Args:
        seals: of what is sent and of what is received, where others could get in between.
    """

    def __init__(self, end: socket.socket, seals: tuple[Seal, Seal] | None = None) -> None:
        self._socket = end
        self._reader = end.makefile("rb")
        self._seals = seals
        self._sending = threading.Lock()  # tags are counted: sent in the order that they are made
        self._ahead: SimpleQueue[bytes | None] | None = None

    @property
    def host(self) -> str:
        """Address of this end, on a network."""
        return str(self._socket.getsockname()[0])

    def send(self, message: bytes) -> None:
        """Send a message; waits while the other end has much that it has not read.

        Raises:
            OSError: nobody is at the other end.
        """
        with self._sending:
            tag = b"" if self._seals is None else self._seals[0].make_tag(message)
            self._socket.sendall(len(message).to_bytes(LENGTH_BYTES, "big") + tag + message)

    def read_ahead(self) -> None:
        """Take what comes when it comes, in a thread; `receive` hands it out.

        Where silence is watched (TCP_USER_TIMEOUT) the system takes a reader that leaves no room
        for a machine that is gone: a rank that compiles a kernel is none.
        """
        self._ahead = SimpleQueue()
        threading.Thread(target=self._read_all, args=(self._ahead,), daemon=True).start()

    def _read_all(self, ahead: SimpleQueue[bytes | None]) -> None:
        while (message := self._receive()) is not None:
            ahead.put(message)
        ahead.put(None)

    def receive(self) -> bytes | None:
        """Wait for the next message; None: the other end is closed, or someone else has sent it."""
        return self._receive() if self._ahead is None else self._ahead.get()

    def _receive(self) -> bytes | None:
        try:
            head = self._reader.read(LENGTH_BYTES)
            length = int.from_bytes(head, "big")
            if len(head) < LENGTH_BYTES or length > MAX_MESSAGE_BYTES:
                return None
            tag = self._reader.read(TAG_BYTES) if self._seals else b""
            message = self._read(length)
        except OSError:  # it ended with words unread, or its machine answers no more
            return None
        if len(message) < length:  # it ended in the middle of a word
            return None
        if self._seals is not None and not self._seals[1].is_next(message, tag):
            _log.error("a message between ranks was changed, or is not from a rank; we part")
            self.shut()
            return None
        return message

    def _read(self, length: int) -> bytes:
        """Read so many bytes, or fewer at the end; takes no memory before they have come."""
        message = bytearray()
        while len(message) < length:
            part = self._reader.read(min(length - len(message), PART_BYTES))
            if not part:
                break
            message += part
        return bytes(message)

    def await_end(self) -> None:
        """Wait until the other end is closed; reads nothing, so another thread may."""
        poll = select.poll()
        poll.register(self._socket, _HUNG_UP)
        poll.poll()

    def shut(self) -> None:
        """Let both ends find the link closed."""
        with suppress(OSError):  # the other one is gone
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end, which nobody uses any more."""
        self._reader.close()
        self._socket.close()


def take_link() -> Link:
    """Take the link that a rank is given as its stdin, and end with who is at the other end."""
    link = Link(socket.socket(fileno=take_stdin()))
    end_with(link)
    return link


def take_stdin() -> int:
    """Return a descriptor of what stdin is, and let stdin be nothing.

    What this process starts, as a compiler, must not keep it open.
    """
    taken = os.dup(STDIN)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, STDIN)
    os.close(nothing)
    return taken


def end_with(link: Link) -> None:
    """End this process with the one at the other end.

    In the middle of whatever it is: nobody would answer in a sum.
    """
    threading.Thread(target=_end_with, args=(link,), daemon=True).start()


def end_with_stdin() -> None:
    """End this process with the one that has the other end of the pipe that stdin is."""
    threading.Thread(target=_end_with_pipe, args=(take_stdin(),), daemon=True).start()


def _end_with_pipe(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os._exit(EXIT_ORPHANED)


def _end_with(link: Link) -> None:
    link.await_end()
    os._exit(EXIT_ORPHANED)
