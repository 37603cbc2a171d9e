"""What ranks tell each other; msgpack on a pair of sockets, never pickle."""

from __future__ import annotations

import msgspec

from llmplug.engine.steps import DeviceStep, HostStep
from llmplug.errors import WireError


class Order(msgspec.Struct, frozen=True, tag=True):
    """The first words to a rank: who it is, and what the engine's process was told."""

    rank: int
    num_ranks: int
    store: str  # path of the file by which ranks find each other
    payload: bytes


class BuildModel(msgspec.Struct, frozen=True, tag=True):
    """Load your part and build the model of it."""

    num_pages: int  # of the cache, as rank 0 has planned


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
