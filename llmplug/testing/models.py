"""Check a model: it computes what transformers computes of the same weights.

Legend: T packed tokens, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llmplug.engine.pooling import make_text_batch
from llmplug.engine.split import check_split
from llmplug.errors import CheckpointError
from llmplug.testing.closeness import expect_close
from llmplug.testing.expect import expect
from llmplug.testing.folder_checkpoint import open_folder
from llmplug.testing.reference_model import ReferenceModel
from llmplug.testing.step_runner import CPU, PAGE_SIZE, BuiltModel, StepRunner, build_model
from llmplug.testing.thread_ranks import (
    RankedStepRunner,
    build_parts,
    build_ranks,
    run_together,
)

if TYPE_CHECKING:
    from llmplug.ops import KernelTable
    from llmplug.specs import Checkpoint, ModelSpec
    from llmplug.testing.thread_ranks import Meeting

# The same float32 sums in another order: of logits near 5 this is a few dozen ulps.
TOLERANCE = 2e-5
# Rounding each activation to 8 bits moves logits by a percent or so of their spread.
_HALF_ERROR = 0.05
_CHUNKS = (1, 5, 16)
# Tokens of three sequences in each step: the first decodes from step 2, the last starts late.
_MIXED_STEPS = ((25, 6, 0), (1, 6, 20), (1, 1, 20), (1, 0, 11), (2, 0, 0))
_NUM_GREEDY = 12
_NUM_DIVIDED = 6  # greedy tokens of each number of ranks
_RANKS = range(2, 9)  # numbers of ranks that are tried

Reference = Callable[[Sequence[int]], torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Trial:
    """A model that is tried."""

    built: BuiltModel
    reference: Reference
    tolerance: float
    num_ids: int
    pad_id: int | None  # is no text: positions may skip it

    def make_ids(self, length: int, seed: int) -> list[int]:
        rng = random.Random(seed)  # noqa: S311 - the same texts each time
        most = min(length, self.built.shape.context_length)
        ids = [i for i in range(self.num_ids) if i != self.pad_id]
        return rng.choices(ids, k=most)

    def compare(self, got: torch.Tensor, ids: Sequence[int], advice: str) -> None:
        expected = self.reference(ids)
        expect_close(got, expected, (0, self.tolerance), advice)


def check_model(
    spec: ModelSpec,
    checkpoint: Checkpoint | Path,
    *,
    reference: Reference | None = None,
    tolerance: float = TOLERANCE,
    ops: KernelTable | None = None,
) -> None:
    """Compare a model with transformers on random texts: whole, in chunks, in batches, by pages.

    A model that generates gives the reference's logits for whole prompts, in chunks of 1, 5 and
    16 tokens, in steps of decodes and prompts of several sequences, and behind a prefix that
    another sequence has cached; what greedy decoding says of a text is the same alone and in a
    batch; in bfloat16 logits stay near. Where its weights say how they are divided, ranks that
    compute it together give the same logits within `tolerance`, as they add in another order, and
    the same greedy tokens: as few ranks as can, and more than there are key/value heads. An encoder
    gives the hidden states, a classifier the scores, of each text alone and packed with others, and
    by several ranks as above.

    Args:
        spec: from `llmplug_models()`.
        checkpoint: of a tiny model of the architecture, or a folder with its config.json and
            model.safetensors. Weights are best random: norms and biases that differ from 1 and 0
            show whether they are applied.
        reference: token ids -> logits_TV (hidden_TD of an encoder, logits_L of a classifier) of
            another implementation; None: transformers' class of that name.
        tolerance: largest difference of a number, absolute, in float32.
        ops: kernels to run on; None: the references.

    Raises:
        AssertionError: says where the numbers part.
    """
    opened = open_folder(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    architecture = opened.config["architectures"][0]
    expect(
        architecture in spec.architectures,
        f"the checkpoint is a {architecture}, which {spec.name!r} does not claim: it claims "
        f"{', '.join(spec.architectures)}",
    )
    trial = _Trial(
        built=build_model(spec, opened, ops=ops),
        reference=reference or ReferenceModel(opened).run,
        tolerance=tolerance,
        num_ids=opened.config["vocab_size"],
        pad_id=opened.config.get("pad_token_id"),
    )
    if not trial.built.shape.layers:
        _check_texts(trial, spec, opened)
        _check_ranks(trial, spec, opened, ops)
        return
    if spec.task == "classify":
        _check_last_tokens(trial)
        _check_ranks(trial, spec, opened, ops)
        return
    _check_chunks(trial)
    _check_mixed_steps(trial)
    _check_prefix(trial)
    _check_greedy(trial)
    if ops is None:
        _check_bfloat16(trial, spec, opened)
    _check_ranks(trial, spec, opened, ops)


# --- models that generate -----------------------------------------------------------------------
def _check_chunks(trial: _Trial) -> None:
    ids = trial.make_ids(90, seed=1)
    whole = StepRunner(trial.built, 1).step({0: ids})[0]
    trial.compare(
        whole,
        ids,
        "logits of a whole prompt differ from the reference's. Where the first token is right and "
        "later ones drift, look at positions (rope) and masks; where all are wrong, at norms, "
        "biases and the order of joined weights.",
    )
    for size in _CHUNKS:
        ids = trial.make_ids(37, seed=2)
        runner = StepRunner(trial.built, 1)
        got = [runner.step({0: ids[i : i + size]})[0] for i in range(0, len(ids), size)]
        advice = (
            f"logits of a prompt in chunks of {size} differ from the reference's, and of a whole "
            "prompt they do not: `positions_T` and the cached tokens count, not places in the step."
        )
        trial.compare(torch.cat(got), ids, advice)


def _check_mixed_steps(trial: _Trial) -> None:
    """Decodes and chunks of prompts of three sequences in the same steps."""
    ids = [trial.make_ids(length, seed=length) for length in (30, 13, 51)]
    runner = StepRunner(trial.built, 3)
    got: list[list[torch.Tensor]] = [[], [], []]
    for lens in _MIXED_STEPS:
        starts = list(runner.num_cached)
        chunks = {s: ids[s][starts[s] : starts[s] + n] for s, n in enumerate(lens) if n}
        for s, logits_TV in runner.step({s: c for s, c in chunks.items() if c}).items():
            got[s].append(logits_TV)
    for s, sequence in enumerate(ids):
        trial.compare(
            torch.cat(got[s]),
            sequence,
            f"logits of sequence {s} differ from the reference's where steps hold several "
            "sequences: nothing but attention may look beyond a token, and that goes by `batch`.",
        )


def _check_prefix(trial: _Trial) -> None:
    """A sequence goes on behind pages that another one has filled."""
    first = trial.make_ids(6 * PAGE_SIZE + 1, seed=5)
    runner = StepRunner(trial.built, 2)
    runner.step({0: first})
    num_shared = runner.share_prefix(0, 1, len(first))
    second = [*first[:num_shared], *trial.make_ids(9, seed=6)]
    got = runner.step({1: second[num_shared:]})[1]
    expected = trial.reference(second)[num_shared:]
    advice = (
        f"logits behind {num_shared} tokens that another sequence has cached differ from the "
        "reference's: keys are cached with their positions, and the model keeps no state."
    )
    expect_close(got, expected, (0, trial.tolerance), advice)


def _check_greedy(trial: _Trial) -> None:
    """Greedy decoding alone and in a batch: the same tokens, logits equal to rounding."""
    alone, together = StepRunner(trial.built, 1), StepRunner(trial.built, 3)
    batch = {s: trial.make_ids(length, seed=50 + length) for s, length in enumerate((11, 4, 23))}
    single = {0: batch[0]}
    for number in range(_NUM_GREEDY):
        one, all_ = alone.step(single), together.step(batch)
        advice = f"decoding alone and in a batch part at token {number}."
        expect_close(one[0][-1], all_[0][-1], (0, trial.tolerance), advice)
        batch = {s: [int(logits_TV[-1].argmax())] for s, logits_TV in all_.items()}
        single = {0: [int(one[0][-1].argmax())]}
        expect(single[0] == batch[0], advice)


def _check_bfloat16(trial: _Trial, spec: ModelSpec, checkpoint: Checkpoint) -> None:
    built = build_model(spec, checkpoint, dtype=torch.bfloat16)
    ids = trial.make_ids(40, seed=3)
    got, expected = StepRunner(built, 1).step({0: ids})[0], trial.reference(ids)
    expect(
        got.dtype == torch.float32,
        f"`compute_logits` returns {got.dtype}: logits are float32 whatever the model's dtype",
    )
    error = float((got - expected).square().mean().sqrt() / expected.std())
    expect(
        error < _HALF_ERROR,
        f"in bfloat16 logits are off by {error:.1%} of their spread, more than {_HALF_ERROR:.0%}: "
        "norms, softmax and rope are computed in float32",
    )


def _check_ranks(
    trial: _Trial, spec: ModelSpec, checkpoint: Checkpoint, ops: KernelTable | None
) -> None:
    """Divide the model among ranks, where its weights say how."""
    if all(weight.split is None for weight in spec.weights(checkpoint.config)):
        return
    for num_ranks in _choose_ranks(spec, checkpoint):
        advice = (
            f"{num_ranks} ranks do not compute what one does. A rank has `context.num_ranks` times "
            "fewer query heads and the key/value heads of `context.shape`; what follows a weight "
            "that is divided by outputs is divided by inputs, in the same units."
        )
        try:
            if trial.built.shape.layers:
                _compare_ranks(trial, build_ranks(spec, checkpoint, num_ranks, ops=ops)(1), advice)
            else:
                parts, meeting = build_parts(spec, checkpoint, num_ranks, ops=ops)
                _compare_readers(trial, spec, checkpoint, (parts, meeting), advice)
        except (CheckpointError, RuntimeError, ValueError) as error:
            raise AssertionError(f"{advice}\n{error}") from error


def _compare_ranks(trial: _Trial, ranks: RankedStepRunner, advice: str) -> None:
    """Decode greedily by several ranks and by one."""
    whole, chunk = StepRunner(trial.built, 1), trial.make_ids(30, seed=8)
    for _ in range(_NUM_DIVIDED):
        one, several = whole.step({0: chunk})[0], ranks.step({0: chunk})[0]
        expect_close(several, one, (0, trial.tolerance), advice)
        expect(torch.equal(several.argmax(-1), one.argmax(-1)), advice)
        chunk = [int(one[-1].argmax())]


def _choose_ranks(spec: ModelSpec, checkpoint: Checkpoint) -> list[int]:
    """Choose the least number of ranks that can divide it, and one that repeats key/value heads.

    Of an encoder, the two least.
    """
    table, shape = spec.weights(checkpoint.config), spec.describe(checkpoint.config)
    reasons = {num_ranks: check_split(table, shape, num_ranks) for num_ranks in _RANKS}
    possible = [num_ranks for num_ranks, reason in reasons.items() if reason is None]
    expect(
        bool(possible),
        f"its weights say how they are divided, but 2 to {_RANKS[-1]} ranks cannot do it: "
        f"{reasons[2]}; take a checkpoint with more heads",
    )
    num_kv_heads = min((layer.num_kv_heads for layer in shape.layers), default=possible[0])
    more = [num_ranks for num_ranks in possible if num_ranks > num_kv_heads]
    return list(dict.fromkeys([possible[0], *more[:1]]))


# --- models that read texts whole ---------------------------------------------------------------
def _check_last_tokens(trial: _Trial) -> None:
    """A classifier with a cache scores a text by its last token."""
    texts = [trial.make_ids(length, seed=length) for length in (1, 40, 5, 64)]
    found = StepRunner(trial.built, len(texts)).step(dict(enumerate(texts)))
    for s, ids in enumerate(texts):
        advice = f"a text of {len(ids)} tokens gets other scores than the reference gives."
        trial.compare(found[s][-1], ids, advice)


def _check_texts(trial: _Trial, spec: ModelSpec, checkpoint: Checkpoint) -> None:
    texts = [trial.make_ids(length, seed=length) for length in (17, 1, 40, 5, 64)]
    expected = [trial.reference(ids) for ids in texts]
    where = "packed with others"
    for batch in ([*range(len(texts))], *([i] for i in range(len(texts)))):
        found = _read_texts(trial.built, spec, checkpoint, [texts[i] for i in batch])
        for i, got in zip(batch, found, strict=True):
            expect_close(
                got,
                expected[i],
                (0, trial.tolerance),
                f"a text of {len(texts[i])} tokens, {where}, is read in another way than by the "
                "reference: look at positions, segments, norms, and at windows of attention.",
            )
        where = "alone"


def _compare_readers(
    trial: _Trial,
    spec: ModelSpec,
    checkpoint: Checkpoint,
    ranks: tuple[Sequence[BuiltModel], Meeting],
    advice: str,
) -> None:
    """Read texts by several ranks and by one; every rank has the whole of what is read."""
    parts, meeting = ranks
    texts = [trial.make_ids(length, seed=length) for length in (17, 1, 40)]
    whole = _read_texts(trial.built, spec, checkpoint, texts)
    reads = [partial(_read_texts, part, spec, checkpoint, texts) for part in parts]
    for found in run_together(reads, meeting):
        for got, expected in zip(found, whole, strict=True):
            expect_close(got, expected, (0, trial.tolerance), advice)


@torch.inference_mode()
def _read_texts(
    built: BuiltModel, spec: ModelSpec, checkpoint: Checkpoint, texts: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    batch = make_text_batch(texts, [()] * len(texts), CPU)
    hidden_TD = built.model.encode(batch)
    if spec.task != "classify":
        lengths = [len(text) for text in texts]
        return list(hidden_TD.float().split(lengths))
    choose = spec.classifier_pooling
    kind = "cls" if choose is None else choose(checkpoint.config)
    pool = built.ops.pool_texts
    pooled_ND = pool(hidden_TD, batch.starts, kind=kind, is_normalised=False)
    return list(built.model.classify(pooled_ND))
