"""Runs all checks against one server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llmplug.conformance import chat, completions, errors, models, others, streams, tools
from llmplug.conformance.checks import Check, CheckFailed, NotOffered

if TYPE_CHECKING:
    from llmplug.conformance.target import Target

CHECKS: tuple[Check, ...] = tuple(
    each
    for topic in (models, chat, streams, completions, tools, errors, others)
    for each in topic.CHECKS
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one check."""

    check: Check
    result: Literal["pass", "fail", "not offered"]
    seen: str  # of a failure
    seconds: float


def run_checks(target: Target, only: str = "") -> Iterator[Outcome]:
    """Run the checks whose name holds a word, one after the other."""
    for each in CHECKS:
        if only in each.name:
            started = time.perf_counter()
            result, seen = _run(each, target)
            yield Outcome(each, result, seen, time.perf_counter() - started)


def _run(each: Check, target: Target) -> tuple[Literal["pass", "fail", "not offered"], str]:
    try:
        each.run(target)
    except CheckFailed as failure:
        return "fail", str(failure)
    except NotOffered:
        return "not offered", ""
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        # An answer that is not even made so that the check could look at it.
        return "fail", f"an answer of another shape: {error!r}"[:200]
    return "pass", ""
