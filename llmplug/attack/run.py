"""Runs all attacks against one server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llmplug.attack import (
    bodies,
    combinations,
    crowds,
    doors,
    forms,
    media,
    numbers,
    prompts,
    templates,
    texts,
    token_ids,
    uploads,
    wire,
)
from llmplug.attack.canary import Canary
from llmplug.attack.leftovers import expect_no_state, expect_ready
from llmplug.conformance.checks import CheckFailed, NotOffered

if TYPE_CHECKING:
    from llmplug.attack.attacker import Attacker
    from llmplug.attack.attacks import Attack
    from llmplug.attack.leftovers import ProcessMemory

BREATHS = 2  # the canary may be silent so much longer than a refusal may take

TOPICS = (
    numbers, token_ids, prompts, texts, bodies, wire, forms, templates, media, uploads,
    combinations, doors, crowds,
)  # fmt: skip
ATTACKS: tuple[Attack, ...] = tuple(each for topic in TOPICS for each in topic.ATTACKS)

Result = Literal["withstood", "failed", "not offered"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attack."""

    attack: Attack
    result: Result
    seen: str  # of a failure
    seconds: float


def run_attacks(
    attacker: Attacker, *, only: str = "", memory: ProcessMemory | None = None
) -> Iterator[Outcome]:
    """Run the attacks whose name holds a word, one after the other.

    Args:
        memory: of the server, if it can be watched.
    Raises:
        CheckFailed: the server does not even answer as it should when nobody attacks it.
    """
    canary = Canary(attacker.target, BREATHS * attacker.within_s)
    for each in ATTACKS:
        if only in each.name:
            yield run_attack(each, attacker, canary, memory)


def run_attack(
    each: Attack, attacker: Attacker, canary: Canary, memory: ProcessMemory | None = None
) -> Outcome:
    """Run one attack, and look at what it leaves."""
    started = time.perf_counter()
    result: Result = "withstood"
    seen = ""
    try:
        before = memory.read() if memory is not None else 0
        with canary.singing():
            each.run(attacker)
        expect_ready(attacker.target)
        expect_no_state(attacker.target)
        if memory is not None:
            memory.expect_small(before)
    except CheckFailed as failure:
        result, seen = "failed", str(failure)
    except NotOffered:
        result = "not offered"
    return Outcome(each, result, seen, time.perf_counter() - started)
