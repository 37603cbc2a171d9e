"""Fields that are harmless alone, two by two."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from llmplug.attack.attacker import CHAT, COMPLETIONS
from llmplug.attack.attacks import attack
from llmplug.conformance.checks import expect

if TYPE_CHECKING:
    from llmplug.attack.attacker import Attacker

FEATURES: tuple[dict[str, Any], ...] = (
    {"n": 3},
    {"temperature": 0},
    {"temperature": 2, "seed": 7},
    {"top_k": 1},
    {"top_p": 0.1, "min_p": 0.9},
    {"presence_penalty": 2, "frequency_penalty": -2},
    {"repetition_penalty": 1.7},
    {"logit_bias": {"1": -100, "2": 100}},
    {"stop": ["e", "zz"]},
    {"stop_token_ids": [3]},
    {"min_tokens": 4},
    {"ignore_eos": True},
    {"allowed_token_ids": [1, 2, 3]},
    {"bad_words": ["a"]},
    {"structured_outputs": {"regex": "[a-c]{2}"}},
    {"prompt_logprobs": 1},
    {"use_beam_search": True, "n": 2},
    {"stream": True},
)
FORMATS: tuple[dict[str, Any], ...] = (
    {"type": "text"},
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}},
)


@attack("combinations")
def two_by_two(attacker: Attacker) -> None:
    """Each two features together are answered, or refused with a reason."""
    pairs = itertools.combinations((*FEATURES, {"logprobs": 2}), 2)
    for path, (one, other) in zip(itertools.cycle((COMPLETIONS, CHAT)), pairs, strict=False):
        fields = {**one, **other}
        if path == CHAT and "logprobs" in fields:
            fields["logprobs"] = True
        answer = attacker.send(path, **fields)
        expect(answer.status in (200, 400), f"{path} {fields}: status {answer.status}")
        is_cut = answer.status == 200 and b'"error":{' in answer.body
        expect(not is_cut, f"{path} {fields}: {answer.body[-120:]!r}")


@attack("combinations")
def forms_and_efforts(attacker: Attacker) -> None:
    """Each form of an answer, streamed and whole, with and without thinking."""
    efforts: tuple[dict[str, Any], ...] = ({}, {"reasoning_effort": "none"}, {"logprobs": True})
    for form, effort, is_streamed in itertools.product(FORMATS, efforts, (False, True)):
        answer = attacker.send(CHAT, response_format=form, stream=is_streamed, **effort)
        expect(answer.status in (200, 400), f"{form} {effort}: status {answer.status}")


ATTACKS = (two_by_two, forms_and_efforts)
