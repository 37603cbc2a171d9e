"""What tests of links between machines share: a door, and somebody on the path."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from llmplug.engine.ranks.link import LENGTH_BYTES, Link
from llmplug.engine.ranks.network import Door, dial
from llmplug.engine.ranks.seal import TAG_BYTES

HOST = "127.0.0.1"
SECRET = "a secret of the tests, long enough"
DEADLINE_S = 60.0
GREETING_BYTES = (48, 64, 32)  # question, answer, proof
HEAD_BYTES = LENGTH_BYTES + TAG_BYTES


class Listening:
    """A door, and the links that it has let in."""

    def __init__(self, secret: str = SECRET) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = probe.getsockname()[1]
        self.links: queue.Queue[Link] = queue.Queue()
        self._links: list[Link] = []
        self._strangers: list[socket.socket] = []
        self.door = Door(HOST, self.port, secret, self._admit)

    def accept(self) -> Link:
        return self.links.get(timeout=DEADLINE_S)

    def dial(self, secret: str = SECRET, port: int | None = None) -> Link:
        """Come as a rank does, or by another port, behind which somebody stands."""
        link = dial(HOST, port or self.port, secret)
        self._links.append(link)
        return link

    def connect(self) -> socket.socket:
        """Come as a stranger."""
        end = socket.create_connection((HOST, self.port), timeout=DEADLINE_S)
        self._strangers.append(end)
        return end

    def close(self) -> None:
        self.door.close()
        for link in self._links:
            link.shut()
            link.close()
        for end in self._strangers:
            end.close()

    def _admit(self, link: Link, host: str) -> None:
        self._links.append(link)
        self.links.put(link)


@contextmanager
def listening(secret: str = SECRET) -> Iterator[Listening]:
    here = Listening(secret)
    try:
        yield here
    finally:
        here.close()


def read_exactly(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = end.recv(count - len(data))
        assert part, f"hung up after {data!r}"
        data += part
    return data


def is_hung_up(end: socket.socket) -> bool:
    """Wait until the other end has hung up; whatever it says before is read."""
    end.settimeout(DEADLINE_S)
    try:
        while end.recv(4096):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


class Middle:
    """Somebody on the path: passes the greeting on, then does with the bytes what a test says."""

    def __init__(self, here: Listening) -> None:
        self._own = socket.create_server((HOST, 0))
        port = self._own.getsockname()[1]
        dialled: queue.Queue[Link] = queue.Queue()
        threading.Thread(target=lambda: dialled.put(here.dial(port=port)), daemon=True).start()
        self.to_guest, _ = self._own.accept()
        self.to_host = here.connect()
        self._pass_greeting()
        self.host, self.guest = here.accept(), dialled.get(timeout=DEADLINE_S)

    def _pass_greeting(self) -> None:
        question, answer, proof = GREETING_BYTES
        self.to_guest.sendall(read_exactly(self.to_host, question))
        self.to_host.sendall(read_exactly(self.to_guest, answer))
        self.to_guest.sendall(read_exactly(self.to_host, proof))

    def take_frame(self, message: bytes) -> bytes:
        """What the host sends for this message, before the guest has it."""
        self.host.send(message)
        return read_exactly(self.to_host, HEAD_BYTES + len(message))

    def close(self) -> None:
        for end in (self._own, self.to_guest):
            end.close()


@contextmanager
def middle() -> Iterator[Middle]:
    with listening() as here:
        wire = Middle(here)
        try:
            yield wire
        finally:
            wire.close()


def until_closed(link: Link) -> list[bytes]:
    """All messages that a link lets through, until it ends; fails if it does not."""
    found: list[bytes] = []
    over = threading.Event()

    def read() -> None:
        while (message := link.receive()) is not None:
            found.append(message)
        over.set()

    threading.Thread(target=read, daemon=True).start()
    assert over.wait(DEADLINE_S), f"the link does not end; it let through {found!r}"
    return found
