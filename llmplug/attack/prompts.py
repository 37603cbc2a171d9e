"""Prompts that are empty, too many or too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.attack.attacker import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from llmplug.attack.attacks import attack

if TYPE_CHECKING:
    from llmplug.attack.attacker import Attacker

LONG = "word " * 500_000  # beyond any context
NUM_PARTS = 50_000
HOLDS_PROMPT = {CHAT: "messages", COMPLETIONS: "prompt", RESPONSES: "input", MESSAGES: "messages"}
EMPTY: dict[str, tuple[Any, ...]] = {
    CHAT: (
        None,
        [],
        "",
        {},
        [{}],
        [None],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "nobody", "content": "x"}],
        [{"role": ["user"], "content": "x"}],
        [{"role": "user", "content": [{}]}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "tool", "content": "x", "tool_call_id": "none"}],
    ),
    COMPLETIONS: (None, [], [[]], [""[:0], None], {}, 5, [[], [1]], ["a", [1]]),
    RESPONSES: (None, [], {}, 5, [{}], [None], [{"type": "message"}]),
    MESSAGES: (None, [], "", [{}], [{"role": "user"}], [{"role": "user", "content": None}]),
}


@attack("prompts")
def nothing_to_answer(attacker: Attacker) -> None:
    """A prompt that is empty, or none, is refused by name."""
    for path, values in EMPTY.items():
        for value in values:
            attacker.expect_refused(path, HOLDS_PROMPT[path], **{HOLDS_PROMPT[path]: value})


@attack("prompts")
def empty_texts(attacker: Attacker) -> None:
    """Texts without a character are answered or refused."""
    attacker.send(COMPLETIONS, prompt="")
    attacker.send(COMPLETIONS, prompt=["", ""])
    attacker.send(RESPONSES, input="")
    for path in (CHAT, MESSAGES):
        for content in ("", [], [{"type": "text", "text": ""}]):
            attacker.send(path, messages=[{"role": "user", "content": content}])


@attack("prompts")
def very_many(attacker: Attacker) -> None:
    """Prompts are counted before anything is made of them, and times `n`."""
    attacker.expect_refused(COMPLETIONS, "prompt", prompt=["a"] * 100_000)
    attacker.expect_refused(COMPLETIONS, "prompt", prompt=[[1]] * 100_000)
    attacker.expect_refused(COMPLETIONS, prompt=["a"] * 128, n=128)
    attacker.expect_refused(COMPLETIONS, prompt=["a"] * 128, best_of=2**31)


@attack("prompts")
def longer_than_the_context(attacker: Attacker) -> None:
    """A prompt that the context does not hold is refused, on every endpoint."""
    said = [{"role": "user", "content": LONG}]
    attacker.expect_refused(COMPLETIONS, "prompt", prompt=LONG)
    attacker.expect_refused(COMPLETIONS, "prompt", prompt=[1] * 500_000)
    attacker.expect_refused(CHAT, "messages", messages=said)
    attacker.expect_refused(RESPONSES, "input", input=LONG)
    attacker.expect_refused(MESSAGES, messages=said)


@attack("prompts")
def very_many_parts(attacker: Attacker) -> None:
    """A message of tens of thousands of parts, or as many messages, cost no more than they say."""
    parts = [{"type": "text", "text": "a"}] * NUM_PARTS
    attacker.expect_refused(CHAT, "messages", messages=[{"role": "user", "content": parts}])
    attacker.expect_refused(MESSAGES, messages=[{"role": "user", "content": parts}])
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant")] * (NUM_PARTS // 2)
    attacker.expect_refused(CHAT, "messages", messages=turns)


ATTACKS = (nothing_to_answer, empty_texts, very_many, longer_than_the_context, very_many_parts)
