"""DRY against its definition, by trying all lengths at all places."""

from __future__ import annotations

import random

import pytest
import torch
from engine.fake_model import VOCAB_SIZE, drain, make_engine, make_request, output_of
from pydantic import ValidationError

from llmplug import SamplerRow
from llmplug.grammar import Vocabulary
from llmplug.testing import check_sampler
from llmplug.testing.sampler_rows import (
    CPU,
    OPS,
    make_row,
)
from llmplug_dry import llmplug_samplers

(SPEC,) = llmplug_samplers()
TEXTS = [bytes([65 + i]) for i in range(20)] + [b"\n", b".\n\n", b" :", b"*"]
SIZE = len(TEXTS)
BREAKERS = {20, 21, 22, 23}


def read_vocabulary() -> Vocabulary:
    return Vocabulary(
        token_bytes=TEXTS, control_ids={}, end_ids=frozenset(), encode=lambda text: []
    )


def apply(logits: torch.Tensor, rows) -> torch.Tensor:
    edited = logits.clone()
    SPEC.make(SIZE, CPU, OPS, read_vocabulary).apply(edited, rows)
    return edited


def expected_penalties(
    ids: list[int], breakers: set[int], multiplier: float, base: float, allowed: int
) -> list[float]:
    """For each token: the longest end of `ids` without breakers that stands before it somewhere."""
    penalties = [0.0] * SIZE
    for token_id in set(range(SIZE)) - breakers:
        longest = 0
        for place in range(1, len(ids)):
            for length in range(1, min(place, 50) + 1):
                end = ids[len(ids) - length :]
                if ids[place] != token_id or breakers & set(end):
                    break
                if ids[place - length : place] == end:
                    longest = max(longest, length)
        if longest >= allowed:
            penalties[token_id] = multiplier * base ** (longest - allowed)
    return penalties


@pytest.mark.parametrize("num_tokens", [0, 1, 2, 7, 60])
@pytest.mark.parametrize("allowed", [1, 2, 4])
def test_it_is_its_definition(num_tokens, allowed) -> None:
    source = random.Random(num_tokens * 10 + allowed)
    for _ in range(15):
        ids = [source.choice([0, 1, 2, 3, 20, 22]) for _ in range(num_tokens)]
        cut = source.randint(0, num_tokens)
        row = make_row(
            SPEC, ids[:cut], ids[cut:], dry_multiplier=0.8, dry_base=1.5,
            dry_allowed_length=allowed,
        )  # fmt: skip
        found = apply(torch.zeros(1, SIZE), [row])[0]
        expected = expected_penalties(ids, BREAKERS, 0.8, 1.5, allowed)
        torch.testing.assert_close(-found, torch.tensor(expected))


def test_long_repetitions_are_finite_and_count_as_fifty() -> None:
    ids = [i % 19 for i in range(19 * 20)]
    row = make_row(SPEC, ids, dry_multiplier=1.0, dry_base=2.0)
    assert apply(torch.zeros(1, SIZE), [row])[0, 0] == -(2.0**48)
    wild = make_row(SPEC, ids, dry_multiplier=1000.0, dry_base=16.0)
    assert apply(torch.zeros(1, SIZE), [wild]).isfinite().all()


def test_breakers_are_the_request_s_and_the_window_is_too() -> None:
    ids = [1, 22, 2, 5, 5, 1, 22]
    fields = {"dry_multiplier": 1.0, "dry_allowed_length": 2}
    assert apply(torch.zeros(1, SIZE), [make_row(SPEC, ids, **fields)])[0, 2] == 0
    no_breakers = make_row(SPEC, ids, dry_sequence_breakers=[], **fields)
    assert apply(torch.zeros(1, SIZE), [no_breakers])[0, 2] == -1
    near = make_row(SPEC, ids, dry_sequence_breakers=[], dry_penalty_last_n=6, **fields)
    assert apply(torch.zeros(1, SIZE), [near])[0, 2] == 0
    by_letter = make_row(SPEC, [1, 2, 3, 1, 2], dry_sequence_breakers=["B"], **fields)
    assert apply(torch.zeros(1, SIZE), [by_letter])[0].tolist() == [0.0] * SIZE


def formula(logits: torch.Tensor, row: SamplerRow) -> torch.Tensor:
    found = expected_penalties(list(row.seen_ids()), BREAKERS, row.params.dry_multiplier, 1.75, 2)
    return logits - torch.tensor(found)


def test_what_holds_for_every_sampler() -> None:
    params = [{"dry_multiplier": 0.1 * (i + 1)} for i in range(4)]
    check_sampler(SPEC, params, formula=formula, vocab_size=SIZE, vocabulary=read_vocabulary())


def test_what_it_refuses() -> None:
    for wrong in (
        {"dry_base": 0.5},
        {"dry_allowed_length": 0},
        {"dry_sequence_breakers": [""]},
        {"dry_sequence_breakers": "no list"},
        {"dry_sequence_breakers": ["x"] * 65},
        {"dry_multiplier": float("nan")},
    ):
        with pytest.raises(ValidationError):
            SPEC.params(**wrong)


def test_an_engine_reads_the_vocabulary_for_it() -> None:
    """The fake model wants to say the same again; DRY keeps it from the third time on."""
    texts = [b"x"] * VOCAB_SIZE
    engine = make_engine(
        samplers=[SPEC],
        read_vocabulary=lambda: Vocabulary(
            token_bytes=texts, control_ids={}, end_ids=frozenset(), encode=lambda text: []
        ),
    )
    prompt = [4, 5, 6, 4, 5, 6, 4, 5]
    engine.add(make_request("0", prompt, logit_bias={6: 100.0}, max_tokens=1))
    extra = {"dry_multiplier": 100.0, "dry_base": 4.0, "dry_allowed_length": 2}
    engine.add(make_request("1", prompt, logit_bias={6: 100.0}, max_tokens=1, extra=extra))
    found = drain(engine)
    assert output_of(found["0", 0]) == [6]
    assert output_of(found["1", 0]) != [6]
