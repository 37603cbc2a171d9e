"""Token ids that the model lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.attack.attacker import CHAT, COMPLETIONS
from llmplug.attack.attacks import attack
from llmplug.conformance.checks import expect

if TYPE_CHECKING:
    from llmplug.attack.attacker import Attacker

BEYOND_ALL = 2**24  # no vocabulary is so wide
OUTSIDE = (-1, -(2**31), BEYOND_ALL, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**30)
NO_IDS: tuple[Any, ...] = (1.5, "1", True, None, [], {})


@attack("token ids")
def prompts(attacker: Attacker) -> None:
    """A prompt of ids that no row of the model has is refused."""
    for value in (*OUTSIDE, *NO_IDS):
        attacker.expect_refused(COMPLETIONS, "prompt", prompt=[1, value])
        attacker.expect_refused(COMPLETIONS, "prompt", prompt=[[1, 2], [1, value]])
    attacker.expect_refused("/detokenize", "tokens", tokens=[1, -1])


@attack("token ids")
def lists_of_ids(attacker: Attacker) -> None:
    """Ids beyond the vocabulary are refused wherever a request lists some."""
    for path in (COMPLETIONS, CHAT):
        for value in OUTSIDE:
            for name in ("stop_token_ids", "allowed_token_ids"):
                attacker.expect_refused(path, name, **{name: [1, value]})
            attacker.expect_refused(path, "logit_bias", logit_bias={str(value): 1})
    for wrong in NO_IDS:
        attacker.expect_refused(COMPLETIONS, "stop_token_ids", stop_token_ids=[wrong])
    for key in ("", "x", "1.5", " 1", "1_0", "٣", "9" * 4000):
        attacker.expect_refused(COMPLETIONS, "logit_bias", logit_bias={key: 1})


@attack("token ids")
def the_edge_of_the_vocabulary(attacker: Attacker) -> None:
    """Each field that holds ids draws the line at the same one: the width of the logits."""
    width = _find_width(attacker)
    for value in (width, width + 1, width + 63):
        attacker.expect_refused(COMPLETIONS, prompt=[value])
        attacker.expect_refused(COMPLETIONS, stop_token_ids=[value])
        attacker.expect_refused(COMPLETIONS, stop_token_ids=[value], min_tokens=4)
        attacker.expect_refused(COMPLETIONS, allowed_token_ids=[value])
        attacker.expect_refused(COMPLETIONS, logit_bias={str(value): 100})
    last = width - 1
    for fields in (
        {"prompt": [last]},
        {"stop_token_ids": [last], "min_tokens": 4},
        {"logit_bias": {str(last): 100}},
        {"allowed_token_ids": [last]},
    ):
        answer = attacker.send(COMPLETIONS, **fields)
        expect(answer.status == 200, f"the last id, {last}, is refused: {answer.body[:80]!r}")


def _find_width(attacker: Attacker) -> int:
    """Return the smallest id that no prompt may hold."""
    taken, refused = 0, BEYOND_ALL
    while refused - taken > 1:
        middle = (taken + refused) // 2
        answer = attacker.send(COMPLETIONS, prompt=[middle], max_tokens=1)
        if answer.status == 200:
            taken = middle
        else:
            refused = middle
    return refused


ATTACKS = (prompts, lists_of_ids, the_edge_of_the_vocabulary)
