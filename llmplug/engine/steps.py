"""A step in numbers: what goes to the device, or to other ranks. No torch."""

from __future__ import annotations

import msgspec


class HostStep(msgspec.Struct, frozen=True, array_like=True, tag="host"):
    """A schedule: all that its tensors are made of, in the order of the schedule."""

    num_decodes: int
    query_lens: tuple[int, ...]  # new tokens of each sequence
    cached_lens: tuple[int, ...]  # its tokens in the cache, these included
    num_pages: tuple[int, ...]
    token_ids: bytes  # the new ones of all sequences, int64
    pages: bytes  # of all sequences, int32


class DeviceStep(msgspec.Struct, frozen=True, array_like=True, tag="device"):
    """What a step tells the device, which knows the rest from the steps before it."""

    num_sequences: int
    num_changes: int
    query_lens: tuple[int, ...]  # of a step with prompts: new tokens of each; else none
    cached_lens: tuple[int, ...]  # of each row with its new tokens, padding included: 0
    # int64: places that change, their values; with prompts also rows, `query_lens`, ids of chunks.
    sent: bytes
