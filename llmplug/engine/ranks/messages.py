"""What ranks tell each other; msgpack, never pickle."""

from __future__ import annotations

from typing import Literal

import msgspec

from llmplug.engine.steps import DeviceStep, HostStep
from llmplug.errors import WireError


class Hello(msgspec.Struct, frozen=True, tag=True):
    """The first words of a rank on another machine: where it is."""

    node: int
    place: int  # on that node
    is_store: bool = False  # this link is for finding the other ranks alone


class Order(msgspec.Struct, frozen=True, tag=True):
    """The first words to a rank: who it is, and what the engine's process was told.

    On another machine it is told less: nothing of the server.
    """

    rank: int
    num_ranks: int
    payload: bytes
    store: str | None = None  # path of the file by which ranks find each other; None: by a link
    host: str | None = None  # address for the others to find it at; None: that of its link


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """The last words to a rank that cannot take part."""

    error: WireError


class BuildModel(msgspec.Struct, frozen=True, tag=True):
    """Load your part and build the model of it."""

    num_pages: int  # of the cache, as rank 0 has planned
    checkpoint: bytes  # digest of what rank 0 loads


class StoreCall(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Do this with the store by which ranks find each other; the reply is what it returns."""

    method: Literal["set", "get", "add", "check", "compare_set"]
    keys: tuple[str, ...]
    values: tuple[bytes, ...] = ()
    amount: int = 0


class StoreReply(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What the store returned, or why it could not."""

    value: bytes | int | bool | None = None
    error: str = ""


class RunStep(msgspec.Struct, frozen=True, array_like=True, tag="run"):
    """Run a step, then compute the logits of some of its rows."""

    step: HostStep | DeviceStep
    rows: tuple[int, ...]


class ComputeLogits(msgspec.Struct, frozen=True, array_like=True, tag="logits"):
    """Compute the logits of rows of the last step."""

    rows: tuple[int, ...]


class KeepTokens(msgspec.Struct, frozen=True, array_like=True, tag="keep"):
    """Take the tokens that rank 0 chose on its device, for these rows of the device's state."""

    rows: tuple[int, ...]


class ReadTexts(msgspec.Struct, frozen=True, array_like=True, tag="read"):
    """Read texts whole."""

    lengths: tuple[int, ...]
    token_ids: bytes  # of all, int64
    type_ids: bytes = b""  # the same; none: all are of the first type


class RankReady(msgspec.Struct, frozen=True, tag=True):
    """The model is built."""


class RankFailed(msgspec.Struct, frozen=True, tag=True):
    """The last words of a rank that ends."""

    error: WireError


Call = RunStep | ComputeLogits | KeepTokens | ReadTexts
Report = RankReady | RankFailed
FirstWords = Order | Refusal
