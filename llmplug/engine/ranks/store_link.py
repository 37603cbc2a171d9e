"""The store by which ranks find each other, for those that are on another machine than its file.

Each asks it over a link of its own, so that torch may do so from any thread and at any time.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

import msgspec
from torch import distributed

from llmplug.engine.ranks.messages import StoreCall, StoreReply

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from llmplug.engine.ranks.link import Link

_encoder = msgspec.msgpack.Encoder()
_call_decoder = msgspec.msgpack.Decoder(StoreCall)
_reply_decoder = msgspec.msgpack.Decoder(StoreReply)


class LinkedStore(distributed.Store):  # type: ignore[name-defined,misc]
    """Implements `torch.distributed.Store` with rank 0's."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self._lock = threading.Lock()

    def set(self, key: str, value: bytes | str) -> None:
        """Keep a value."""
        self._ask(StoreCall("set", (key,), (_as_bytes(value),)))

    def get(self, key: str) -> bytes:
        """Return a value; waits until there is one."""
        return cast("bytes", self._ask(StoreCall("get", (key,))))

    def add(self, key: str, value: int) -> int:
        """Add to a number, 0 at first; return the sum."""
        return cast("int", self._ask(StoreCall("add", (key,), amount=value)))

    def check(self, keys: Sequence[str]) -> bool:
        """Return whether all of them have values."""
        return cast("bool", self._ask(StoreCall("check", tuple(keys))))

    def compare_set(self, key: str, expected: bytes | str, desired: bytes | str) -> bytes:
        """Keep a value if another one is there; return what is there then."""
        values = (_as_bytes(expected), _as_bytes(desired))
        return cast("bytes", self._ask(StoreCall("compare_set", (key,), values)))

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Wait until all of them have values, as long as rank 0's store does."""
        for key in keys:
            self.get(key)

    def _ask(self, call: StoreCall) -> Any:
        with self._lock:
            self._link.send(_encoder.encode(call))
            data = self._link.receive()
        if data is None:
            raise ConnectionError("rank 0 is gone")
        reply = _reply_decoder.decode(data)
        if reply.error:
            raise RuntimeError(reply.error)
        return reply.value


def serve_store(link: Link, store: Any) -> None:
    """Do with a store what a rank on another machine asks for, until it asks no more."""
    while (data := link.receive()) is not None:
        call = _call_decoder.decode(data)
        try:
            reply = StoreReply(_do(store, call))
        except Exception as error:  # noqa: BLE001 - of torch's: the rank is told
            reply = StoreReply(error=str(error))
        try:
            link.send(_encoder.encode(reply))
        except OSError:
            break
    link.close()


def _do(store: Any, call: StoreCall) -> bytes | int | bool | None:
    if call.method == "check":
        return bool(store.check(list(call.keys)))
    (key,) = call.keys
    if call.method == "add":
        return int(store.add(key, call.amount))
    if call.method == "get":
        return bytes(store.get(key))
    if call.method == "set":
        store.set(key, *call.values)
        return None
    return bytes(store.compare_set(key, *call.values))


def _as_bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
