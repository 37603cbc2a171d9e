"""A pair of sockets between rank 0 and another rank: whole messages, and a sign of either's end."""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import suppress

STDIN = 0
EXIT_ORPHANED = 3  # as of an engine whose server is gone
LENGTH_BYTES = 8  # big-endian, before each message


class Link:
    """One end. The other one's is closed by the system when its process ends, however it does."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._reader = end.makefile("rb")

    def send(self, message: bytes) -> None:
        """Send a message; waits while the other end has much that it has not read.

        Raises:
            OSError: nobody is at the other end.
        """
        self._socket.sendall(len(message).to_bytes(LENGTH_BYTES, "big") + message)

    def receive(self) -> bytes | None:
        """Wait for the next message; None: the other end is closed."""
        try:
            length = self._reader.read(LENGTH_BYTES)
            message = self._reader.read(int.from_bytes(length, "big"))
        except ConnectionResetError:  # it ended with words unread
            return None
        return message if len(length) == LENGTH_BYTES else None

    def await_end(self) -> None:
        """Wait until the other end is closed; reads nothing, so another thread may."""
        poll = select.poll()
        poll.register(self._socket, 0)  # hanging up is told without being asked for
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
    """Take the link that a rank is given as its stdin, and end with the process at the other end.

    In the middle of whatever it is: nobody would answer in a sum.
    """
    link = Link(socket.socket(fileno=os.dup(STDIN)))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, STDIN)  # what this process starts, as a compiler, must not keep it open
    os.close(nothing)
    threading.Thread(target=_end_with, args=(link,), daemon=True).start()
    return link


def _end_with(link: Link) -> None:
    link.await_end()
    os._exit(EXIT_ORPHANED)
