"""HTTP that is malformed, endless, slow or contradicts itself."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from llmplug.attack.attacker import COMPLETIONS
from llmplug.attack.attacks import attack
from llmplug.conformance.checks import NotOffered, expect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmplug.attack.attacker import Attacker

NUM_SLOW = 64
LAST_WORDS_S = 10.0  # a server may wait so long before it gives up a connection
CHUNK = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
JSON = b"Host: x\r\nContent-Type: application/json\r\n"


@attack("wire")
def large_headers(attacker: Attacker) -> None:
    """Headers of a megabyte, or ten thousand of them, are refused while they are read."""
    for headers in (
        b"X-Long: " + b"x" * 2**20 + b"\r\n",
        b"x" * 2**20 + b": 1\r\n",
        b"".join(b"X-%d: 1\r\n" % i for i in range(10_000)),
        b"X-Request-Id: " + b"x" * 2**20 + b"\r\n",
        b"Authorization: Bearer " + b"x" * 2**20 + b"\r\n",
    ):
        expect_given_up(attacker, [b"GET /v1/models HTTP/1.1\r\nHost: x\r\n", headers, b"\r\n"])
    expect_given_up(attacker, [b"GET /" + b"x" * 2**20 + b" HTTP/1.1\r\nHost: x\r\n\r\n"])


@attack("wire")
def malformed_requests(attacker: Attacker) -> None:
    """What is no HTTP is refused, and the connection is closed."""
    for request in (
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS to a port without
        b"POST / HTTP/1.1\r\n%bContent-Length: -1\r\n\r\n" % JSON,
        b"POST / HTTP/1.1\r\n%bContent-Length: 1e3\r\n\r\n" % JSON,
        b"POST / HTTP/1.1\r\n%bContent-Length: %b\r\n\r\n" % (JSON, b"9" * 400),
        b"POST / HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\nzz\r\n" % JSON,
        b"POST / HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n-1\r\n" % JSON,
        b"POST / HTTP/1.1\r\n%bTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" % JSON,
    ):
        expect_given_up(attacker, [request])


@attack("wire")
def two_lengths(attacker: Attacker) -> None:
    """A body whose length is said in two ways hides no second request behind it."""
    hidden = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    for headers, body in (
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + hidden),
        (b"Content-Length: 0\r\nContent-Length: %d\r\n" % len(hidden), hidden),
    ):
        head = b"POST %b HTTP/1.1\r\n%b%b\r\n" % (COMPLETIONS.encode(), JSON, headers)
        answers = talk(attacker, [head + body])
        expect(answers.count(b"HTTP/1.1 200") == 0, f"the hidden request is answered: {headers!r}")


@attack("wire")
def endless_bodies(attacker: Attacker) -> None:
    """A body without an end is refused at the bound, not kept and not waited for."""
    head = b"POST %b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n%b\r\n" % (
        COMPLETIONS.encode(), JSON, key_header(attacker),
    )  # fmt: skip
    answer = talk(attacker, [head, *[CHUNK] * 1000])
    expect(b" 413 " in answer[:20], f"an endless body: {answer[:60]!r}")
    lying = b"POST %b HTTP/1.1\r\n%bContent-Length: 10000000000\r\n%b\r\n" % (
        COMPLETIONS.encode(), JSON, key_header(attacker),
    )  # fmt: skip
    answer = talk(attacker, [lying, *[CHUNK] * 10])
    expect(b" 413 " in answer[:20], f"ten gigabytes that are said to come: {answer[:60]!r}")


@attack("wire")
def bodies_without_a_key(attacker: Attacker) -> None:
    """Where a key is asked for, nobody without one has a body read."""
    if attacker.target.api_key is None:
        raise NotOffered
    head = b"POST %b HTTP/1.1\r\n%bContent-Length: 10000000\r\n\r\n" % (COMPLETIONS.encode(), JSON)
    answer = talk(attacker, [head], ends=False)
    expect(b" 401 " in answer[:20], f"it waits for the body: {answer[:60]!r}")


@attack("wire")
def slow_requests(attacker: Attacker) -> None:
    """Dozens of requests that come byte by byte, or not at all, hold up nobody."""
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(attacker)) for _ in range(NUM_SLOW)]
        for i, sock in enumerate(slow):
            if i % 2:
                sock.sendall(b"POST %b HTTP/1.1\r\n%b" % (COMPLETIONS.encode(), JSON))
            if i % 4 == 3:
                sock.sendall(b"Content-Length: 100\r\n%b\r\n{" % key_header(attacker))
        for letter in b"X-Slow: 1234567890":
            for sock in slow[1::4]:
                with suppress(OSError):
                    sock.sendall(bytes([letter]))
            started = time.perf_counter()
            attacker.send(COMPLETIONS, n=0)
            expect(time.perf_counter() - started < attacker.within_s, "others are held up")


def connect(attacker: Attacker) -> socket.socket:
    """Open a connection to the server, to be written to as one likes."""
    connection = attacker.target.connect()
    connection.timeout = LAST_WORDS_S
    connection.connect()
    sock: socket.socket = connection.sock
    return sock


def key_header(attacker: Attacker) -> bytes:
    """The line that holds the key, if there is one."""
    key = attacker.target.headers_with_key.get("Authorization")
    return f"Authorization: {key}\r\n".encode() if key is not None else b""


def talk(attacker: Attacker, pieces: Iterable[bytes], *, ends: bool = True) -> bytes:
    """Send pieces as far as the server takes them; return what it says.

    Args:
        ends: say that nothing more comes, and listen to the end; else to the first words alone.
    """
    said = b""
    with connect(attacker) as sock:
        with suppress(OSError):  # it need not read all
            for piece in pieces:
                sock.sendall(piece)
            if ends:
                sock.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while piece := sock.recv(2**16):
                said += piece
                if not ends:
                    break
    return said


def expect_given_up(attacker: Attacker, pieces: Iterable[bytes]) -> None:
    """A malformed request is refused, or its connection is closed without a word.

    Raises:
        CheckFailed: it is answered, or the server fails or tells what it is made of.
    """
    said = talk(attacker, pieces)
    status = said[9:10]
    expect(status in (b"4", b"") or said[9:12] in (b"501", b"505"), f"it answers {said[:40]!r}")
    attacker.check_words(said)


ATTACKS = (
    large_headers,
    malformed_requests,
    two_lengths,
    endless_bodies,
    bodies_without_a_key,
    slow_requests,
)
