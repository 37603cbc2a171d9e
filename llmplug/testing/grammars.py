"""Check a backend of structured output: what it allows, what it refuses, and how it is shared."""

from __future__ import annotations

import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from llmplug.errors import GrammarError
from llmplug.grammar import Regex, Seq, Text
from llmplug.testing.byte_answers import (
    CONTROL,
    allowed_ids,
    is_answer,
    make_vocabulary,
    sample,
)
from llmplug.testing.expect import expect
from llmplug.testing.grammar_cases import FURTHER, LARK, REFUSED, STRICT, TREES, Case

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.grammar import GrammarBackend, Node
    from llmplug.specs import GrammarSpec

_NUM_SAMPLES = 12  # of each schema


def check_grammar(spec: GrammarSpec, *, more: Sequence[Case] = ()) -> None:
    """Try a backend on every part of a grammar and every keyword of strict JSON schemas.

    Texts that fit are allowed to the end and others are not, byte by byte, and masks say what
    `accept` does; control tokens stand where a tree spells them and nowhere else; further keywords
    and Lark are followed, or refused by name; what no backend follows is refused by name, and
    nothing is passed over. Answers that share a grammar do not share their place, and grammars are
    compiled in several threads at a time.

    Args:
        spec: from `llmplug_grammars()`.
        more: cases of the backend's own.

    Raises:
        AssertionError: says which grammar takes which text, or is not refused.
    """
    backend = spec.open(make_vocabulary())
    for case in (*STRICT, *TREES, *more):
        _check_case(backend, case)
    for case in (*FURTHER, *LARK):
        _check_followed_or_refused(backend, case)
    for node, words in REFUSED:
        _check_refused(backend, node, words)
    for case in STRICT:
        _check_samples(backend, case)
    _check_control_tokens(backend)
    _check_sharing(backend)


def _check_case(backend: GrammarBackend, case: Case) -> None:
    for text, fits in case.texts.items():
        found = is_answer(backend, case.node, text)
        expect(
            found == fits,
            f"{case.node} {'allows' if found else 'does not allow'} {text!r} as a whole answer"
            + ("" if fits else ", which does not fit: an answer would break its form"),
        )


def _check_followed_or_refused(backend: GrammarBackend, case: Case) -> None:
    try:
        backend.compile(case.node)
    except GrammarError as error:
        names = case.keywords or ("lark",)
        expect(
            any(name.lower() in str(error).lower() for name in names),
            f"{case.node} is refused with {str(error)!r}: name what is not followed, one of "
            f"{', '.join(names)}",
        )
    else:
        _check_case(backend, case)


def _check_refused(backend: GrammarBackend, node: Node, words: str) -> None:
    try:
        backend.compile(node)
    except GrammarError as error:
        expect(
            re.search(words, str(error)) is not None,
            f"{node} is refused with {str(error)!r}, in which nothing matches {words!r}: name "
            "what is not followed",
        )
    else:
        raise AssertionError(
            f"{node} is compiled: what is not followed, or can never be met, is refused with a "
            f"GrammarError that says {words!r}"
        )


def _check_samples(backend: GrammarBackend, case: Case) -> None:
    """Whatever is chosen among the allowed is a whole answer, and JSON."""
    rng = random.Random(7)  # noqa: S311 - the same texts each time
    texts = [sample(backend, case.node, rng) for _ in range(_NUM_SAMPLES)]
    ended = [text for text in texts if text is not None]
    expect(bool(ended), f"no answer to {case.node} comes to an end")
    for text in ended:
        try:
            json.loads(text)
        except ValueError as error:
            raise AssertionError(f"{case.node} allows {text!r}, which is no JSON") from error


def _check_control_tokens(backend: GrammarBackend) -> None:
    state = backend.compile(Seq([Text("<call>"), Regex("[^x]*"), Text("</call>")])).start()
    first = allowed_ids(state)
    expect(
        first == [CONTROL["<call>"]],
        f"where a tree spells <call>, a control token, {first} are allowed: the token alone is",
    )
    state.accept(first[0])
    control = {i for i in allowed_ids(state) if i in CONTROL.values()}
    expect(
        control == {CONTROL["</call>"]},
        f"control tokens {control} are allowed within text: none is but where a tree spells it",
    )


def _check_sharing(backend: GrammarBackend) -> None:
    """States are apart, and threads may compile at the same time."""
    grammar = backend.compile(Text("ab"))
    one, other = grammar.start(), grammar.start()
    expect(one.accept(ord("a")) and not one.accept(ord("a")), "'ab' allows 'aa'")
    expect(
        allowed_ids(other) == [ord("a")] and allowed_ids(one) == [ord("b")],
        "answers that share a grammar share their place in it: `start` makes a state for each",
    )
    expect(one.accept(ord("b")) and one.is_done, "'ab' is not done behind its last letter")
    expect(grammar.num_bytes > 0, "`num_bytes` is 0: a guess keeps the cache within its budget")
    nodes = [case.node for case in (*TREES, *STRICT)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(backend.compile, nodes))
