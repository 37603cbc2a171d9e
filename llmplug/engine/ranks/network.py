"""Links between machines: who does not know the secret gets none, and costs little.

Both ends show that they know it, and neither tells it: the one that listens asks with 32 random
bytes; the one that has come answers, and asks too. From the secret and both questions follow the
keys of the seals that every message then has. Nothing is encrypted.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from llmplug.engine.ranks.link import Link
from llmplug.engine.ranks.seal import Seal
from llmplug.errors import ConfigError, EngineError

PROTOCOL = b"llmplug ranks 1\n"
NONCE_BYTES = 32
PROOF_BYTES = 32  # SHA-256
GREETING_S = 5.0  # for a stranger to become none
MAX_STRANGERS = 32  # at once; who comes then is turned away at once
TELL_EVERY_S = 10.0
RETRY_S = 0.1  # until there may be descriptors again
# A machine that says nothing any more is given up after about so long.
SILENCE_S = 6
_log = logging.getLogger(__name__)


class Door:
    """Listens for ranks of other machines, and lets in those that know the secret."""

    def __init__(
        self, host: str, port: int, secret: str, admit: Callable[[Link, str], None]
    ) -> None:
        """Listen.

        Args:
            host, port: no other address is listened on.
            admit: is given each link, and the address that it came from, in a thread of its own.

        Raises:
            EngineError: nobody can listen there.
        """
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._socket = socket.create_server((host, port), family=family, backlog=MAX_STRANGERS)
        except OSError as error:
            raise EngineError(f"cannot listen for other ranks at {host}:{port}: {error}") from error
        self._secret = secret.encode()
        self._admit = admit
        self._lock = threading.Lock()
        self._strangers: dict[socket.socket, None] = {}  # being greeted, the oldest first
        self._is_closed = False
        self._told_at = -TELL_EVERY_S
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more, who has come already or not."""
        with self._lock:
            self._is_closed = True
            strangers = list(self._strangers)
        for end in (self._socket, *strangers):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes up who waits
        self._socket.close()

    def _listen(self) -> None:
        while not self._is_closed:
            try:
                end, address = self._socket.accept()
            except OSError:  # closed; or who came is gone, or there are no descriptors left
                time.sleep(RETRY_S)
                continue
            self._make_room()
            with self._lock:
                self._strangers[end] = None
            threading.Thread(target=self._meet, args=(end, address[0]), daemon=True).start()

    def _make_room(self) -> None:
        """Turn away who has been a stranger for longest: a rank is one for a moment only."""
        with self._lock:
            if len(self._strangers) < MAX_STRANGERS:
                return
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)

    def _meet(self, end: socket.socket, host: str) -> None:
        try:
            link = _receive_guest(end, self._secret)
        except OSError as error:  # TimeoutError, or he is gone
            self._turn_away(end, host, str(error) or "it says nothing")
        except _StrangerError as error:
            self._turn_away(end, host, str(error))
        else:
            if self._forget(end):
                self._admit(link, host)
            else:
                link.close()
            return
        self._forget(end)

    def _forget(self, end: socket.socket) -> bool:
        """Count a stranger no longer; return whether he may come in, if he is none any more."""
        with self._lock:
            is_greeted = end in self._strangers  # else it took him too long
            self._strangers.pop(end, None)
            return is_greeted and not self._is_closed

    def _turn_away(self, end: socket.socket, host: str, reason: str) -> None:
        end.close()
        now = time.monotonic()
        if now - self._told_at > TELL_EVERY_S:  # not for each of a flood
            self._told_at = now
            _log.warning("whoever came from %s is no rank: %s", host, reason)


def dial(host: str, port: int, secret: str) -> Link:
    """Come to a door.

    Raises:
        OSError: there is none, or it does not answer.
        ConfigError: whoever is there has another secret, or is no rank.
    """
    end = socket.create_connection((host, port), timeout=GREETING_S)
    try:
        link = _greet(end, secret.encode())
        link.read_ahead()
        return link
    except _StrangerError as error:
        end.close()
        raise ConfigError(f"{host}:{port}: {error}; has it the same parallel.secret?") from error
    except BaseException:
        end.close()
        raise


class _StrangerError(Exception):
    """Who is at the other end does not know the secret."""


def _receive_guest(end: socket.socket, secret: bytes) -> Link:
    """Find out whether who has come knows the secret; show him that we do."""
    deadline = time.monotonic() + GREETING_S
    question = PROTOCOL + secrets.token_bytes(NONCE_BYTES)
    end.settimeout(GREETING_S)
    end.sendall(question)
    answer = _read(end, NONCE_BYTES + PROOF_BYTES, deadline)
    asked = question + answer[:NONCE_BYTES]
    if not hmac.compare_digest(_prove(secret, b"guest", asked), answer[NONCE_BYTES:]):
        raise _StrangerError("it does not know the secret")
    end.sendall(_prove(secret, b"host", asked))
    return _seal(end, secret, asked, sends=b"from host", receives=b"from guest")


def _greet(end: socket.socket, secret: bytes) -> Link:
    """Show that we know the secret; find out whether the one who listens does."""
    deadline = time.monotonic() + GREETING_S
    question = _read(end, len(PROTOCOL) + NONCE_BYTES, deadline)
    if not question.startswith(PROTOCOL):
        raise _StrangerError("it speaks another protocol")
    nonce = secrets.token_bytes(NONCE_BYTES)
    asked = question + nonce
    end.sendall(nonce + _prove(secret, b"guest", asked))
    try:
        proof = _read(end, PROOF_BYTES, deadline)
    except ConnectionResetError as error:  # as a door does that was not convinced
        raise _StrangerError("it hung up when we had shown our secret") from error
    if not hmac.compare_digest(_prove(secret, b"host", asked), proof):
        raise _StrangerError("it does not know the secret")
    return _seal(end, secret, asked, sends=b"from guest", receives=b"from host")


def _prove(secret: bytes, role: bytes, asked: bytes) -> bytes:
    return hmac.digest(secret, role + b"\0" + asked, "sha256")


def _seal(
    end: socket.socket, secret: bytes, asked: bytes, *, sends: bytes, receives: bytes
) -> Link:
    end.settimeout(None)
    _watch_silence(end)
    seals = (Seal(_prove(secret, sends, asked)), Seal(_prove(secret, receives, asked)))
    return Link(end, seals)


def _watch_silence(end: socket.socket) -> None:
    """Have the system find out that the other machine is gone, where it could not say so."""
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {
        "TCP_KEEPIDLE": SILENCE_S // 3,
        "TCP_KEEPINTVL": 1,
        "TCP_KEEPCNT": SILENCE_S - SILENCE_S // 3,
        "TCP_USER_TIMEOUT": 1000 * SILENCE_S,  # where words are under way
    }.items():
        option = getattr(socket, name, None)
        if option is not None:  # not all systems have each
            end.setsockopt(socket.IPPROTO_TCP, option, value)


def _read(end: socket.socket, count: int, deadline: float) -> bytes:
    data = b""
    while len(data) < count:
        end.settimeout(max(deadline - time.monotonic(), 0.001))
        part = end.recv(count - len(data))
        if not part:
            raise ConnectionResetError("it hung up")
        data += part
    return data
