"""The check of samplers finds what is planted, and passes what is right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from llmplug import SamplerRow, SamplerSpec
from llmplug.testing import check_fused_sampler, check_sampler
from llmplug.testing.sampler_rows import OPS

INF = float("inf")


class Params(BaseModel):
    strength: float = 0.0


def make_spec(sampler: type, stage: str = "filter", **fields: Any) -> SamplerSpec:
    defaults: dict[str, Any] = {
        "params": Params,
        "is_active": lambda params: params.strength > 0,
        "reads_history": False,
    }
    make = fields.pop("make", lambda vocab_size, device, ops: sampler())
    return SamplerSpec(name="mine", stage=stage, make=make, **{**defaults, **fields})


def run(spec: SamplerSpec, **settings: Any) -> None:
    check_sampler(spec, [{"strength": 0.5}, {"strength": 1.0}], **settings)


class Cut:
    """Forbids what is further below the best token than `strength`."""

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        for logits_V, row in zip(logits_RV, rows, strict=True):
            logits_V[logits_V < logits_V.max() - row.params.strength] = -INF


class Draw:
    """Draws with the op that all samplers have."""

    def choose(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> torch.Tensor:
        return draw(logits_RV, [row.seed for row in rows], [row.position for row in rows])


def draw(logits_RV: torch.Tensor, seeds: list[int], positions: list[int]) -> torch.Tensor:
    scales = torch.ones(len(logits_RV))
    return OPS.choose_tokens(logits_RV, scales, torch.tensor(seeds), torch.tensor(positions))


# --- filters ------------------------------------------------------------------------------------
class IgnoresTheMask:
    def apply(self, logits_RV, rows):
        logits_RV.nan_to_num_(neginf=-1e9)


class ForbidsAll:
    def apply(self, logits_RV, rows):
        logits_RV.fill_(-INF)


class ScalesToo:
    def apply(self, logits_RV, rows):
        logits_RV.mul_(1.5)


class LooksAtTheBatch:
    def apply(self, logits_RV, rows):
        logits_RV[logits_RV < logits_RV.max() - 1] = -INF
        logits_RV[:, 0] = 0


class GoesByTheFirstRow(Cut):
    def apply(self, logits_RV, rows):
        super().apply(logits_RV, [rows[0]] * len(rows))


class ThrowsDice:
    def apply(self, logits_RV, rows):
        logits_RV[:, : random.randrange(1, 400)] = -INF


class MakesNan:
    def apply(self, logits_RV, rows):
        logits_RV.sub_(logits_RV.amin(1, keepdim=True))


class ReadsTheOutput:
    def apply(self, logits_RV, rows):
        for logits_V, row in zip(logits_RV, rows, strict=True):
            logits_V[list(row.output_ids)[:5]] = -INF


class EditsItsState(Cut):
    def apply(self, logits_RV, rows):
        super().apply(logits_RV, rows)
        for row in rows:
            row.next_state = row.state if row.state is not None else [0]
            row.next_state.append(row.position)


FILTERS = [
    (IgnoresTheMask, "allows tokens again whose logit was -inf"),
    (ForbidsAll, "forbids every token of a row"),
    (ScalesToo, "changes logits of tokens that it keeps"),
    (LooksAtTheBatch, "treats the row of .* in another way alone"),
    (GoesByTheFirstRow, "treats the row of .* in another way alone"),
    (ThrowsDice, "another result for the same rows"),
    (MakesNan, "makes NaN"),
    (ReadsTheOutput, "reads_history=False"),
]


@pytest.mark.parametrize(("sampler", "words"), FILTERS)
def test_a_planted_bug_of_a_filter_is_found(sampler: type, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        run(make_spec(sampler))


def test_a_state_that_is_changed_in_place_is_found() -> None:
    with pytest.raises(AssertionError, match="in place: beams that part ways share it"):
        run(make_spec(EditsItsState, reads_history=True))


def test_a_right_filter_passes_and_a_wrong_formula_does_not() -> None:
    def formula(logits_V: torch.Tensor, row: SamplerRow) -> torch.Tensor:
        least = logits_V.max() - row.params.strength
        return torch.where(logits_V < least, -INF, logits_V)

    run(make_spec(Cut), formula=formula)
    with pytest.raises(AssertionError, match="is not what its formula says"):
        run(make_spec(Cut), formula=lambda logits_V, row: logits_V.where(logits_V > 0, -INF))


# --- choosers -----------------------------------------------------------------------------------
class DrawsForbiddenOnes(Draw):
    def choose(self, logits_RV, rows):
        return super().choose(logits_RV.nan_to_num(neginf=-5), rows)


class TakesTheLast(Draw):
    def choose(self, logits_RV, rows):
        return torch.full((len(rows),), logits_RV.shape[1] - 2)


class IsTooSure(Draw):
    def choose(self, logits_RV, rows):
        return super().choose(logits_RV * 1.15, rows)


class ForgetsThePosition(Draw):
    def choose(self, logits_RV, rows):
        return draw(logits_RV, [row.seed for row in rows], [0] * len(rows))


class HalvesTheSeed(Draw):
    """Neighbouring seeds give the same, though all tokens come as often as they should."""

    def choose(self, logits_RV, rows):
        return draw(logits_RV, [row.seed // 2 for row in rows], [row.position for row in rows])


class UsesTorchsGenerator(Draw):
    def choose(self, logits_RV, rows):
        return torch.multinomial(logits_RV.softmax(-1), 1)[:, 0]


class ReturnsAColumn(Draw):
    def choose(self, logits_RV, rows):
        return super().choose(logits_RV, rows)[:, None]


CHOOSERS = [
    (DrawsForbiddenOnes, "whose logit is -inf"),
    (TakesTheLast, "whose logit is -inf"),
    (IsTooSure, "tokens do not come as often as they should"),
    (ForgetsThePosition, "over 5000 positions tokens do not come as often"),
    (HalvesTheSeed, "draws whose seeds are 1 apart know of each other"),
    (UsesTorchsGenerator, "another result for the same rows"),
    (ReturnsAColumn, "one int64 id a row"),
]


@pytest.mark.parametrize(("sampler", "words"), CHOOSERS)
def test_a_planted_bug_of_a_chooser_is_found(sampler: type, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        run(make_spec(sampler, "choose"))


def test_a_right_chooser_passes() -> None:
    run(make_spec(Draw, "choose"))


# --- what the spec says -------------------------------------------------------------------------
def test_what_the_spec_says_is_tried_too() -> None:
    with pytest.raises(AssertionError, match="is not active with"):
        check_sampler(make_spec(Cut), [{"strength": 0.0}])
    with pytest.raises(AssertionError, match="at least one setting"):
        check_sampler(make_spec(Cut), [])
    with pytest.raises(AssertionError, match="active with its defaults"):
        run(make_spec(Cut, is_active=lambda params: True))
    with pytest.raises(AssertionError, match="has a method 'choose'"):
        run(make_spec(Cut, "choose"))
    with pytest.raises(AssertionError, match="stands for top_k"):
        run(make_spec(Cut, fuses=("top_k",), fuse=dict))


def test_a_vocabulary_is_read_where_it_is_asked_for() -> None:
    sizes = []

    def make(vocab_size, device, ops, read_vocabulary):
        sizes.append((vocab_size, len(read_vocabulary().token_bytes)))
        return Cut()

    run(make_spec(Cut, make=make, reads_vocabulary=True))
    assert set(sizes) == {(501, 501)}


# --- samplers of several in one -----------------------------------------------------------------
class CutBoth(Cut):
    """What `Cut` does, by the stricter of two settings."""


class CutOnce(Cut):
    """Forgets all settings but the first row's."""

    def apply(self, logits_RV, rows):
        super().apply(logits_RV, [rows[0]] * len(rows))


def fuse(parts: dict[str, Params]) -> Params:
    return Params(strength=min(params.strength for params in parts.values()))


def make_parts() -> list[SamplerSpec]:
    first = make_spec(Cut)
    return [replace(first, name="first"), replace(first, name="second")]


def make_fused(sampler: type, fuse: Any = fuse) -> SamplerSpec:
    return make_spec(sampler, fuses=("first", "second"), fuse=fuse)


SETTINGS = [
    {"first": {"strength": 2.0}, "second": {"strength": 0.5}},
    {"second": {"strength": 1.0}},
    {"first": {"strength": 4.0}},
]


def test_several_in_one_are_compared_with_their_parts() -> None:
    check_fused_sampler(make_fused(CutBoth), make_parts(), SETTINGS)
    with pytest.raises(AssertionError, match="mine depends on the batch"):
        check_fused_sampler(make_fused(CutOnce), make_parts(), SETTINGS)
    with pytest.raises(AssertionError, match="mine is not first, then second with"):
        check_fused_sampler(
            make_fused(CutBoth, fuse=lambda parts: next(iter(parts.values()))),
            make_parts(),
            SETTINGS,
        )
    with pytest.raises(AssertionError, match="give these as `parts`"):
        check_fused_sampler(make_fused(CutBoth), make_parts()[:1], SETTINGS)
    nowhere = make_spec(Cut, fuses=("first", "second"), fuse=fuse, make=lambda *_: None)
    with pytest.raises(AssertionError, match="`make` gives None where kernels serve all ops"):
        check_fused_sampler(nowhere, make_parts(), SETTINGS)
