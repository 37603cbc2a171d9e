"""What is sent: prompts of random token ids, of fixed length, the same for the same seed.

Random ids share no prefix but the one that is asked for, so that a prefix cache helps only where
the workload says so. Prompts differ from run to run: a repeated one would be cached.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Ids that nearly every vocabulary has, above the control tokens that many put first.
FIRST_ID = 1_000
LAST_ID = 31_999
# Each of them, with a blank before it, is one token of nearly every vocabulary.
_COMMON = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city community name"
)
WORDS = tuple(_COMMON.split())


@dataclass(frozen=True, slots=True)
class Workload:
    """Lengths in tokens; `shared_prefix` of the prompt is the same for all requests of a run.

    Attributes:
        is_prefill: says how fast prompts are read, to one client at a time; what comes after the
            first token is too short to be timed.
    """

    name: str
    prompt_tokens: int
    output_tokens: int
    shared_prefix: int = 0
    is_prefill: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.shared_prefix < self.prompt_tokens or self.output_tokens < 2:
            raise ValueError(f"{self.name}: needs 0 <= prefix < prompt, and output >= 2 tokens")

    @property
    def shared(self) -> float:
        """The part of a prompt that a prefix cache can hold, 0 to 1."""
        return self.shared_prefix / self.prompt_tokens


# Prefixes are whole pages of 16 tokens, the size that most caches have: 976 / 1024 is 95.3 %.
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("random-128-128", 128, 128),
        Workload("random-1024-128", 1024, 128),
        Workload("random-128-1024", 128, 1024),
        Workload("shared-0", 1024, 128),
        Workload("shared-50", 1024, 128, shared_prefix=512),
        Workload("shared-95", 1024, 128, shared_prefix=976),
        Workload("prefill-512", 512, 2, is_prefill=True),
    )
}


def make_prompts(workload: Workload, count: int, *, seed: int) -> list[list[int]]:
    """Return `count` prompts; other seeds give others, with another shared prefix."""
    numbers = random.Random(f"{workload.name}/{seed}")

    def draw(length: int) -> list[int]:
        return [numbers.randint(FIRST_ID, LAST_ID) for _ in range(length)]

    prefix = draw(workload.shared_prefix)
    tail = workload.prompt_tokens - workload.shared_prefix
    return [prefix + draw(tail) for _ in range(count)]


def spell(prompt: Sequence[int]) -> str:
    """Return a text of about as many tokens, for a server that takes no ids.

    Equal prompts give equal texts, and equal prefixes equal prefixes.
    """
    return " ".join(WORDS[token_id % len(WORDS)] for token_id in prompt)
