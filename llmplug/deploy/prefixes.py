"""What prompts begin with, and which replica has seen it: text in blocks, hashed in a chain.

Replicas keep what they computed of a prompt's beginning. Text stands for tokens here, so that no
ingress needs a tokenizer: equal text is equal tokens, and a block is some pages of the cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b

import msgspec

BLOCK_BYTES = 256  # some 64 tokens: four pages
MAX_PROMPT_BLOCKS = 256  # 64 KiB decide; what comes behind them hardly tells two prompts apart
MAX_KNOWN_BLOCKS = 65_536  # 16 MiB of text, in some 20 MB
HOME_SHARE = 0.25  # of a prompt: another ingress may have sent it home
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


class PrefixTable:
    """Remembers which replicas were sent what; what was used longest ago is forgotten first."""

    def __init__(self, max_blocks: int = MAX_KNOWN_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._seen_by: OrderedDict[bytes, set[str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen_by)

    def remember(self, prefix: Sequence[bytes], replica: str, alive: Collection[str]) -> None:
        """Note that a replica was sent a prompt; forget those that are gone."""
        # The last block first, so that beginnings outlive what follows them.
        for block in reversed(prefix):
            seen_by = self._seen_by.pop(block, set())
            self._seen_by[block] = {each for each in seen_by if each in alive} | {replica}
        while len(self._seen_by) > self._max_blocks:
            self._seen_by.popitem(last=False)

    def count_blocks(self, prefix: Sequence[bytes]) -> dict[str, int]:
        """Count how many blocks of a prompt, from its first on, each replica has seen."""
        counts: dict[str, int] = {}
        for number, block in enumerate(prefix, start=1):
            seen_by = self._seen_by.get(block)
            if not seen_by:
                break
            counts.update((each, number) for each in seen_by if counts.get(each, 0) == number - 1)
        return counts


def find_home(prefix: Sequence[bytes], replicas: Collection[str]) -> str | None:
    """Choose the replica that every ingress chooses for a prompt, whatever it has seen.

    The block that decides is the last whose number is a power of two: it stays the same while a
    conversation grows, until it is twice as long.
    """
    if not prefix:
        return None
    block = prefix[2 ** (len(prefix).bit_length() - 1) - 1]

    def weigh(replica: str) -> bytes:
        return blake2b(block + replica.encode(), digest_size=_DIGEST_BYTES).digest()

    return max(replicas, key=weigh, default=None)


def rank(
    loads: Mapping[str, int],
    prefix: Sequence[bytes],
    num_seen: Mapping[str, int],
    slack: float,
) -> list[str]:
    """Order replicas, the one to be asked first.

    Args:
        loads: requests that each replica has.
        num_seen: blocks of the prompt that each has seen.
        slack: how many requests more a replica may have that has seen all of the prompt, before
            one that has seen none of it is asked.
    """
    home = find_home(prefix, loads)

    def cost(replica: str) -> float:
        share = num_seen.get(replica, 0) / len(prefix) if prefix else 0.0
        if replica == home:
            share = max(share, HOME_SHARE)
        return loads[replica] + slack * (1.0 - share)

    return sorted(loads, key=cost)
