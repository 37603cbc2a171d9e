"""What prompts begin with, and which replica has seen it: text in blocks, hashed in a chain.

Replicas keep what they computed of a prompt's beginning. Text stands for tokens here, so that no
ingress needs a tokenizer: equal text is equal tokens, and a block is some pages of the cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Mapping
from hashlib import blake2b
from typing import Generic, TypeVar

import msgspec

Replica = TypeVar("Replica", bound=Hashable)

BLOCK_BYTES = 256  # some 64 tokens: four pages
MAX_PROMPT_BLOCKS = 256  # 64 KiB decide; what comes behind them hardly tells two prompts apart
MAX_KNOWN_BLOCKS = 65_536  # 16 MiB of text, in some 20 MB
_DIGEST_BYTES = 16


class _Prompt(msgspec.Struct):
    """What a prompt is made of in each protocol, in the order in which templates place it."""

    model: msgspec.Raw = msgspec.Raw(b"")
    tools: msgspec.Raw = msgspec.Raw(b"")
    system: msgspec.Raw = msgspec.Raw(b"")
    instructions: msgspec.Raw = msgspec.Raw(b"")
    messages: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")
    input: msgspec.Raw = msgspec.Raw(b"")


_read_prompt = msgspec.json.Decoder(_Prompt).decode


def read_prefix(body: bytes, caller: bytes) -> tuple[bytes, ...]:
    """Hash what a request's prompt begins with.

    Args:
        body: of any request; what is no prompt has no prefix.
        caller: its credentials: who has another key shares no cache.
    Returns:
        A hash for each whole block, which says what this and all blocks before it hold.
    """
    try:
        parts = msgspec.structs.astuple(_read_prompt(body))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ()
    text = b"\0".join(memoryview(part)[: BLOCK_BYTES * MAX_PROMPT_BLOCKS] for part in parts)
    num_blocks = min(len(text) // BLOCK_BYTES, MAX_PROMPT_BLOCKS)
    digest = blake2b(caller, digest_size=_DIGEST_BYTES).digest()
    prefix = []
    for start in range(0, num_blocks * BLOCK_BYTES, BLOCK_BYTES):
        block = text[start : start + BLOCK_BYTES]
        digest = blake2b(digest + block, digest_size=_DIGEST_BYTES).digest()
        prefix.append(digest)
    return tuple(prefix)


class PrefixTable(Generic[Replica]):
    """Remembers which replicas were sent what; what was used longest ago is forgotten first."""

    def __init__(self, max_blocks: int = MAX_KNOWN_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._seen_by: OrderedDict[bytes, set[Replica]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen_by)

    def remember(
        self, prefix: Collection[bytes], replica: Replica, alive: Collection[Replica]
    ) -> None:
        """Note that a replica was sent a prompt; forget those that are gone."""
        # The last block first, so that beginnings outlive what follows them.
        for block in reversed(tuple(prefix)):
            seen_by = self._seen_by.pop(block, set())
            self._seen_by[block] = {each for each in seen_by if each in alive} | {replica}
        while len(self._seen_by) > self._max_blocks:
            self._seen_by.popitem(last=False)

    def count_blocks(self, prefix: Collection[bytes]) -> dict[Replica, int]:
        """Count how many blocks of a prompt, from its first on, each replica has seen."""
        counts: dict[Replica, int] = {}
        for number, block in enumerate(prefix, start=1):
            seen_by = self._seen_by.get(block, ())
            if not seen_by:
                break
            counts.update((each, number) for each in seen_by if counts.get(each, 0) == number - 1)
        return counts


def rank(
    loads: Mapping[Replica, int],
    num_seen: Mapping[Replica, int],
    num_blocks: int,
    slack: float,
) -> list[Replica]:
    """Order replicas, the one to be asked first.

    Args:
        loads: requests that each replica has.
        num_seen: blocks of the prompt that each has seen.
        num_blocks: of the prompt.
        slack: how many requests more a replica may have that has seen all of the prompt, before
            one that has seen none of it is asked.
    """

    def cost(replica: Replica) -> float:
        share = num_seen.get(replica, 0) / num_blocks if num_blocks else 0.0
        return loads[replica] + slack * (1.0 - share)

    return sorted(loads, key=cost)
