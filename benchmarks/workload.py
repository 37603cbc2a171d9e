"""What is sent: prompts of random token ids, of fixed length, the same for the same seed.

Random ids share no prefix but the one that is asked for, so that a prefix cache helps only where
the workload says so. Prompts differ from run to run: a repeated one would be cached.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

# Ids that nearly every vocabulary has, above the control tokens that many put first.
FIRST_ID = 1_000
LAST_ID = 31_999


@dataclass(frozen=True, slots=True)
class Workload:
    """Lengths in tokens; `shared_prefix` of the prompt is the same for all requests of a run."""

    name: str
    prompt_tokens: int
    output_tokens: int
    shared_prefix: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.shared_prefix < self.prompt_tokens or self.output_tokens < 2:
            raise ValueError(f"{self.name}: needs 0 <= prefix < prompt, and output >= 2 tokens")


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("random-128-128", 128, 128),
        Workload("random-1024-128", 1024, 128),
        Workload("random-128-1024", 128, 1024),
        Workload("shared-prefix", 1024, 128, shared_prefix=896),
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
