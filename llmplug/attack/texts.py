"""Texts, lists and names that are far too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.attack.attacker import CHAT, COMPLETIONS, GENERATING, QUESTION
from llmplug.attack.attacks import attack
from llmplug.conformance.checks import expect

if TYPE_CHECKING:
    from llmplug.attack.attacker import Attacker

LONG = "x" * 8 * 2**20  # less than a body may have
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@attack("texts")
def long_names(attacker: Attacker) -> None:
    """What is kept, compared or hashed has a length at most."""
    for path in GENERATING:
        attacker.expect_refused(path, model=LONG)
    attacker.expect_refused(CHAT, "messages", messages=[{"role": LONG, "content": "x"}])
    attacker.expect_refused(COMPLETIONS, "cache_salt", cache_salt=LONG)
    attacker.expect_refused(CHAT, "tools", tools=[{**TOOL, "function": {"name": LONG}}])
    attacker.expect_refused(CHAT, "tool_choice", tools=[TOOL], tool_choice=LONG)
    attacker.expect_refused(COMPLETIONS, "logit_bias", logit_bias={LONG: 1})
    attacker.expect_refused(CHAT, "response_format", response_format={"type": LONG})


@attack("texts")
def long_lists(attacker: Attacker) -> None:
    """Lists that are worked through for every token have a length at most."""
    attacker.expect_refused(COMPLETIONS, "stop", stop=["x"] * 100_000)
    attacker.expect_refused(COMPLETIONS, "stop", stop=LONG)
    attacker.expect_refused(COMPLETIONS, "stop_token_ids", stop_token_ids=[1] * 100_000)
    attacker.expect_refused(COMPLETIONS, "bad_words", bad_words=["x"] * 100_000)
    attacker.expect_refused(COMPLETIONS, "bad_words", bad_words=[LONG])
    biases = {str(i): 1 for i in range(100_000)}
    attacker.expect_refused(COMPLETIONS, "logit_bias", logit_bias=biases)
    attacker.expect_refused(CHAT, "tools", tools=[TOOL] * 10_000)


@attack("texts")
def long_values_without_effect(attacker: Attacker) -> None:
    """What changes no answer may be long, and is not kept."""
    for fields in _harmless():
        attacker.send(CHAT, **fields)


@attack("texts")
def very_many_fields(attacker: Attacker) -> None:
    """Ten thousand fields that nobody knows do not come back whole in a header."""
    fields: dict[str, Any] = {f"unknown_{i}": i for i in range(10_000)}
    answer = attacker.ask(
        "POST", CHAT, {**fields, "model": attacker.target.model, "messages": QUESTION}
    )
    size = sum(len(name) + len(value) for name, value in answer.headers.items())
    expect(size < 16 * 2**10, f"the answer's headers have {size} bytes")


def _harmless() -> list[dict[str, Any]]:
    return [
        {"user": LONG},
        {"metadata": {"a": LONG}},
        {"safety_identifier": LONG},
        {"an_unknown_field": LONG},
        {LONG: 1},
    ]


ATTACKS = (long_names, long_lists, long_values_without_effect, very_many_fields)
