"""Numbers that are none, or too large."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llmplug.attack.attacker import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from llmplug.attack.attacks import attack

if TYPE_CHECKING:
    from llmplug.attack.attacker import Attacker

NEGATIVE = (-1, -(2**31), -(2**63), -(10**30))
HUGE = (10**9, 2**31, 2**63, 2**64, 10**30)
NO_INTEGERS: tuple[Any, ...] = (1.5, "1", True, [], {}, math.nan, math.inf)
NO_FLOATS: tuple[Any, ...] = (
    math.nan,
    math.inf,
    -math.inf,
    1e308,
    -1e308,
    10**400,
    "1",
    True,
    [],
    {},
)
LENGTHS = {
    CHAT: "max_completion_tokens",
    COMPLETIONS: "max_tokens",
    RESPONSES: "max_output_tokens",
    MESSAGES: "max_tokens",
}
FLOATS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")


@attack("numbers")
def answers_to_one_question(attacker: Attacker) -> None:
    """`n` that is no number of answers, or of more than anybody reads, is refused."""
    for path in (CHAT, COMPLETIONS):
        for value in (0, *NEGATIVE, *HUGE):
            attacker.expect_refused(path, "n", n=value)
        for wrong in NO_INTEGERS:
            attacker.expect_refused(path, n=wrong)
    for value in (0, *NEGATIVE, *HUGE):
        attacker.expect_refused(COMPLETIONS, "best_of", best_of=value)


@attack("numbers")
def beams(attacker: Attacker) -> None:
    """A beam search of a senseless width is refused."""
    for value in (0, *NEGATIVE, *HUGE):
        attacker.expect_refused(COMPLETIONS, "n", use_beam_search=True, n=value)


@attack("numbers")
def lengths(attacker: Attacker) -> None:
    """A length below 1 is refused; a huge one ends with the context."""
    for path, name in LENGTHS.items():
        for value in NEGATIVE:
            attacker.expect_refused(path, name, **{name: value})
        for wrong in NO_INTEGERS:
            attacker.expect_refused(path, **{name: wrong})
    attacker.expect_refused(COMPLETIONS, "min_tokens", min_tokens=2**63)


@attack("numbers")
def log_probabilities(attacker: Attacker) -> None:
    """More alternatives than 20, or fewer than none, are refused."""
    for value in (*NEGATIVE, *HUGE):
        attacker.expect_refused(COMPLETIONS, "logprobs", logprobs=value)
        attacker.expect_refused(CHAT, "top_logprobs", logprobs=True, top_logprobs=value)


@attack("numbers")
def floats(attacker: Attacker) -> None:
    """What is no finite number of a sensible size is refused."""
    for path in (CHAT, COMPLETIONS):
        for name in FLOATS:
            for value in NO_FLOATS:
                attacker.expect_refused(path, **{name: value})
    for name in ("temperature", "top_p"):
        for path in (RESPONSES, MESSAGES):
            for value in NO_FLOATS:
                attacker.expect_refused(path, **{name: value})


ATTACKS = (answers_to_one_question, beams, lengths, log_probabilities, floats)
