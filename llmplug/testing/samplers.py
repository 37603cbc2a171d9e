"""Check a sampler: what it does to logits, by chance and by seed, alone and in a batch.

Legend: R rows, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from llmplug.specs import SamplerRow, SamplerSpec
from llmplug.testing.chance import find_correlation, is_plausible
from llmplug.testing.closeness import expect_close
from llmplug.testing.expect import expect
from llmplug.testing.sampler_rows import (
    INF,
    copy_rows,
    make_logits,
    make_odd_logits,
    make_rows,
    make_sampler,
)

if TYPE_CHECKING:
    from llmplug.grammar import Vocabulary

_NUM_DRAWS = 5_000
_NUM_TOKENS = 40  # to draw from: few enough for each to come up often

Formula = Callable[[torch.Tensor, SamplerRow], torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Trial:
    """A sampler that is tried."""

    spec: SamplerSpec
    vocab_size: int
    device: torch.device
    vocabulary: Vocabulary | None

    def run(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> torch.Tensor:
        """Return the edited logits, or the tokens, of a sampler made anew."""
        sampler = self.make(logits_RV.shape[1])
        edited_RV = logits_RV.clone().to(self.device)
        if self.spec.stage == "choose":
            chosen: torch.Tensor = sampler.choose(edited_RV, rows)
            return chosen.cpu()
        sampler.apply(edited_RV, rows)
        return edited_RV.cpu()

    def make(self, vocab_size: int) -> Any:
        sampler = make_sampler(
            self.spec, vocab_size, device=self.device, vocabulary=self.vocabulary
        )
        method = "choose" if self.spec.stage == "choose" else "apply"
        expect(
            hasattr(sampler, method),
            f"{self.spec.name}: `make` returns {sampler!r}; a sampler of stage "
            f"{self.spec.stage!r} has a method {method!r}",
        )
        return sampler


def check_sampler(
    spec: SamplerSpec,
    params: Sequence[Mapping[str, Any]],
    *,
    formula: Formula | None = None,
    vocab_size: int = 501,
    device: str = "cpu",
    vocabulary: Vocabulary | None = None,
) -> None:
    """Try a sampler on rows of every kind, alone and in batches.

    The same seed gives the same, in any batch and order; a token that is forbidden stays so; a
    filter forbids and does nothing else, and leaves a token; a sampler that says that it reads no
    history does not; states are not changed in place. Where `formula` is given, results equal it:
    draws by a chi-square test over several thousand of them, edits within float32's rounding.

    Args:
        spec: from `llmplug_samplers()`.
        params: settings that make it active, as requests give them; each gets rows of its own.
        formula: (logits_V, row) -> what is expected: of stage `choose` the probabilities of all
            tokens (None: softmax of the logits), of the others the edited logits.
        vocab_size: of the rows; odd, so that loops over vectors have a remainder.
        device: that the sampler is made for.
        vocabulary: for a sampler that reads one; None: one of made-up words.

    Raises:
        AssertionError: says what is wrong and with which settings.
    """
    trial = _Trial(spec, vocab_size, torch.device(device), vocabulary)
    _check_activity(spec, params)
    rows = make_rows(spec, params, vocab_size)
    logits_RV = make_odd_logits(len(rows), vocab_size)
    _check_batches(trial, logits_RV, rows)
    _check_masks(trial, logits_RV, rows)
    _check_history(trial, logits_RV, rows)
    _check_states(trial, logits_RV, rows)
    if spec.stage == "choose":
        for row in rows[1 : 2 * len(params) : 2]:
            _check_draws(trial, row, formula or (lambda logits_V, row: logits_V.softmax(-1)))
    elif formula is not None:
        _check_edits(trial, rows, formula)


def _check_activity(spec: SamplerSpec, params: Sequence[Mapping[str, Any]]) -> None:
    expect(
        not spec.fuses,
        f"{spec.name} stands for {', '.join(spec.fuses)}: check it with check_fused_sampler",
    )
    expect(bool(params), "give at least one setting that makes the sampler active")
    for fields in params:
        expect(
            bool(spec.is_active(spec.params(**fields))),
            f"{spec.name} is not active with {fields}: `is_active` keeps it from rows that ask "
            "for it, or this setting is neutral",
        )
    if spec.stage != "choose":
        expect(
            not spec.is_active(spec.params()),
            f"{spec.name} is active with its defaults: every field of `params` needs a neutral "
            "default, or requests that do not ask for the sampler get it",
        )


def _check_batches(trial: _Trial, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
    """The same row gives the same, to the bit: twice, alone, and in a batch backwards."""
    together = trial.run(logits_RV, copy_rows(rows))
    name = trial.spec.name
    _check_shape(trial.spec, logits_RV, together)
    expect(
        _is_same(trial.run(logits_RV, copy_rows(rows)), together),
        f"{name} gives another result for the same rows: chance is keyed by (seed, position) of "
        "a row, as `ops.choose_tokens` does it, and by nothing else",
    )
    backwards = trial.run(logits_RV.flip(0), copy_rows(rows)[::-1]).flip(0)
    for i, row in enumerate(rows):
        alone = trial.run(logits_RV[i : i + 1], copy_rows([row]))[0]
        expect(
            _is_same(alone, together[i]) and _is_same(backwards[i], together[i]),
            f"{name} treats the row of {row.params!r} in another way alone than in a batch, or in "
            "another order: a row's result may depend on that row alone",
        )


def _check_shape(spec: SamplerSpec, logits_RV: torch.Tensor, found: torch.Tensor) -> None:
    if spec.stage != "choose":
        expect(not bool(found.isnan().any()), f"{spec.name} makes NaN of finite logits")
        return
    num_rows, vocab_size = logits_RV.shape
    expect(
        found.dtype == torch.int64 and tuple(found.shape) == (num_rows,),
        f"{spec.name} returns {found.dtype} of shape {tuple(found.shape)}: `choose` returns one "
        f"int64 id a row, shape ({num_rows},)",
    )
    expect(
        bool(((found >= 0) & (found < vocab_size)).all()),
        f"{spec.name} chose an id outside of the vocabulary of {vocab_size}",
    )


def _check_masks(trial: _Trial, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
    """What others forbade stays forbidden, and a filter does nothing but forbid."""
    spec, found = trial.spec, trial.run(logits_RV, copy_rows(rows))
    is_forbidden_RV = logits_RV == -INF
    if spec.stage == "choose":
        is_wrong_R = is_forbidden_RV.gather(1, found[:, None])[:, 0]
        expect(
            not bool(is_wrong_R.any()),
            f"{spec.name} chose a token whose logit is -inf: grammars and filters forbid tokens "
            "that way, before it runs",
        )
        return
    expect(
        bool((found[is_forbidden_RV] == -INF).all()),
        f"{spec.name} allows tokens again whose logit was -inf: leave those as they are",
    )
    expect(
        bool((found > -INF).any(1).all()),
        f"{spec.name} forbids every token of a row: one must stay",
    )
    if spec.stage == "filter":
        kept_RV = found > -INF
        expect(
            torch.equal(found[kept_RV], logits_RV[kept_RV]),
            f"{spec.name} changes logits of tokens that it keeps: stage 'filter' forbids, and "
            "'bias' or 'scale' is for the rest",
        )


def _check_history(trial: _Trial, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
    """A sampler that says that it reads no history gives the same after another output."""
    spec = trial.spec
    if spec.reads_history:
        return
    before, after = copy_rows(rows), copy_rows(rows)
    for row in after:
        row.output_ids = tuple((i * 7 + 3) % logits_RV.shape[1] for i in row.output_ids)
    results = [trial.run(logits_RV, each) for each in (before, after)]
    has_state = any(row.next_state is not None for row in (*before, *after))
    expect(
        _is_same(*results) and not has_state,
        f"{spec.name} says `reads_history=False`, and reads `output_ids` or keeps a state: it "
        "would be run before the host knows them. Leave `reads_history` True",
    )


def _check_states(trial: _Trial, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
    """A state is replaced, never changed in place."""
    first = copy_rows(rows)
    trial.run(logits_RV, first)
    second = copy_rows(rows)
    for row, before in zip(second, first, strict=True):
        row.state = before.next_state
        row.position += 1
    kept = copy_rows(second)
    trial.run(logits_RV, second)
    for row, before in zip(second, kept, strict=True):
        expect(
            _is_same(row.state, before.state),
            f"{trial.spec.name} changes `row.state` in place: beams that part ways share it. Set "
            "`row.next_state` to a new value",
        )


def _check_draws(trial: _Trial, row: SamplerRow, formula: Formula) -> None:
    """Over seeds, and over positions, tokens come as often as they should."""
    logits_V = make_logits(1, 1.5, _NUM_TOKENS)[0]
    logits_V[5::3] = -INF
    probs = formula(logits_V.clone(), row).tolist()
    for vary in ("seed", "position"):
        counts = Counter(_draw(trial, logits_V, row, vary).tolist())
        impossible = sorted(i for i in counts if probs[i] == 0)
        expect(
            not impossible,
            f"{trial.spec.name} with {row.params!r} chose tokens that cannot come: {impossible}; "
            "those whose logit is -inf are forbidden",
        )
        expect(
            is_plausible(counts, probs),
            f"{trial.spec.name} with {row.params!r}: over {_NUM_DRAWS} {vary}s tokens do not come "
            f"as often as they should; expected the probabilities {_most(probs)}, found the "
            f"shares {_most([counts[i] / _NUM_DRAWS for i in range(_NUM_TOKENS)])}",
        )
        even = formula(torch.zeros(2), row).tolist()
        if even == [0.5, 0.5]:
            lag = find_correlation(_draw(trial, torch.zeros(2), row, vary))
            expect(
                lag is None,
                f"{trial.spec.name}: draws whose {vary}s are {lag} apart know of each other: mix "
                "seed and position well, as `ops.choose_tokens` does",
            )


def _draw(trial: _Trial, logits_V: torch.Tensor, row: SamplerRow, vary: str) -> torch.Tensor:
    rows = copy_rows([row] * _NUM_DRAWS)
    for number, each in enumerate(rows):
        setattr(each, vary, number)
    return trial.run(logits_V.expand(_NUM_DRAWS, -1), rows)


def _most(shares: Sequence[float]) -> dict[int, float]:
    """Return the largest shares by token."""
    best = sorted(range(len(shares)), key=lambda i: -shares[i])[:8]
    return {i: round(shares[i], 4) for i in best if shares[i] > 0}


def _check_edits(trial: _Trial, rows: Sequence[SamplerRow], formula: Formula) -> None:
    """Logits are edited as a formula says it."""
    logits_RV = make_odd_logits(len(rows), trial.vocab_size)
    found = trial.run(logits_RV, copy_rows(rows))
    for i, row in enumerate(rows):
        expected_V = formula(logits_RV[i].clone(), copy_rows([row])[0]).to(found.dtype)
        expect_close(
            found[i],
            expected_V,
            (1e-5, 1e-5),
            f"{trial.spec.name} with {row.params!r} is not what its formula says.",
        )


def _is_same(x: Any, y: Any) -> bool:
    """Return whether results, or states, are equal to the bit."""
    if isinstance(x, torch.Tensor):
        return isinstance(y, torch.Tensor) and torch.equal(x, y)
    if isinstance(x, list | tuple):
        return len(x) == len(y) and all(map(_is_same, x, y))
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(_is_same(x[key], y[key]) for key in x)
    if hasattr(x, "__dict__"):
        return _is_same(vars(x), vars(y))
    return bool(x == y)
