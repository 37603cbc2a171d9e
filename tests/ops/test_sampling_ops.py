"""The torch references of the sampling ops, against plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from llmplug.ops import choose_tokens, filter_tokens, mask_tokens, penalise_tokens
from llmplug.ops.choose_tokens import CHOOSE_TOKENS
from llmplug.ops.filter_tokens import FILTER_TOKENS
from llmplug.ops.mask_tokens import MASK_TOKENS
from llmplug.ops.penalise_tokens import PENALISE_TOKENS

CPU = torch.device("cpu")
STEP = 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    """SplitMix64's output function, in whole numbers that never wrap by themselves."""
    z %= 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def gumbel(seed: int, position: int, token: int) -> float:
    uniform = (
        (mix(mix(mix(seed) + (position + 1) * STEP) + (token + 1) * STEP) >> 32) + 0.5
    ) / 2**32
    return -math.log(-math.log1p(-uniform))


def examples(op):
    return [e for e in op.example_inputs(CPU, torch.float32) if e["logits_SV"].numel() > 0]


def name_of(example) -> str:
    return "x".join(map(str, example["logits_SV"].shape))


@pytest.mark.parametrize("example", examples(CHOOSE_TOKENS), ids=name_of)
def test_chosen_is_the_highest_with_its_noise(example) -> None:
    got = choose_tokens(**example).tolist()
    for row, logits in enumerate(example["logits_SV"].tolist()):
        heat, seed = example["temperature_S"][row].item(), example["seeds_S"][row].item()
        position = example["positions_S"][row].item()
        scores = [
            x if heat == 0 else x / heat + gumbel(seed, position, t) for t, x in enumerate(logits)
        ]
        assert got[row] == max(range(len(scores)), key=scores.__getitem__)


def test_tokens_are_drawn_with_their_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.25, 0.15, 0.1, 0.0])
    count = 20_000
    ids_S = choose_tokens(
        probabilities.log().repeat(count, 1), torch.ones(count),
        torch.full((count,), 1234), torch.arange(count),
    )  # fmt: skip
    found = torch.bincount(ids_S, minlength=5)
    expected = probabilities * count
    # Chi-squared with 3 degrees of freedom: beyond 16.3 once in a thousand seeds; ours is fixed.
    assert ((found - expected)[:4] ** 2 / expected[:4]).sum() < 16.3
    assert found[4] == 0
    # Neighbouring draws are independent: pairs come as often as the product says.
    pairs = torch.bincount(ids_S[:-1] * 5 + ids_S[1:], minlength=25).view(5, 5)[:4, :4]
    expected = torch.outer(probabilities, probabilities)[:4, :4] * (count - 1)
    assert ((pairs - expected) ** 2 / expected).sum() < 37.7  # 15 degrees of freedom


def test_a_row_draws_the_same_alone_and_in_a_batch() -> None:
    example = examples(CHOOSE_TOKENS)[2]
    together = choose_tokens(**example)
    for row in range(len(together)):
        alone = choose_tokens(**{name: x[row : row + 1] for name, x in example.items()})
        assert alone == together[row]


def test_equal_logits_choose_the_lowest_id_and_a_nan_is_chosen() -> None:
    logits_SV = torch.tensor([[1.0, 2.0, 2.0], [1.0, float("nan"), 3.0]])
    got = choose_tokens(logits_SV, torch.zeros(2), torch.zeros(2).long(), torch.zeros(2).long())
    assert got.tolist() == [1, 1]


def keep(logits: list[float], top_k: int, top_p: float, min_p: float) -> set[int]:
    """The chain, one token at a time, the highest first and the lowest id of equal ones."""
    order = sorted(range(len(logits)), key=lambda t: (-logits[t], t))[: top_k or None]
    weights = [math.exp(logits[t] - logits[order[0]]) for t in order]
    total, before, kept = math.fsum(weights), 0.0, set()
    for token, weight in zip(order, weights, strict=True):
        if token != order[0] and (before >= top_p * total and top_p < 1):
            break
        before += weight
        if weight >= min_p * 0.9999999:
            kept.add(token)
    return kept


@pytest.mark.parametrize("example", examples(FILTER_TOKENS), ids=name_of)
def test_what_stays_is_what_the_chain_keeps(example) -> None:
    before = example["logits_SV"].clone()
    got = filter_tokens(**example)
    for row, logits in enumerate(before.tolist()):
        settings = [example[name][row].item() for name in ("top_k_S", "top_p_S", "min_p_S")]
        kept = {t for t in keep(logits, *settings) if logits[t] > -math.inf}
        expected = [x if t in kept else -math.inf for t, x in enumerate(logits)]
        assert got[row].tolist() == expected


@pytest.mark.parametrize("example", examples(PENALISE_TOKENS), ids=name_of)
def test_penalties_are_those_of_the_formulas(example) -> None:
    expected = example["logits_SV"].double()
    num_rows, size = expected.shape
    entries = zip(*(example[x].tolist() for x in ("rows_E", "ids_E", "counts_E")), strict=True)
    for row, token, count in entries:
        if 0 <= row < num_rows and 0 <= token < size:
            repetition, presence, frequency = example["penalties_S3"][row].double().tolist()
            x = expected[row, token].item()
            x = x / repetition if x > 0 else x * repetition
            expected[row, token] = x - presence * (count > 0) - frequency * count
    got = penalise_tokens(**example)
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("example", examples(MASK_TOKENS), ids=name_of)
def test_tokens_without_a_bit_are_forbidden(example) -> None:
    expected = example["logits_SV"].tolist()
    for row, words in zip(example["rows_R"].tolist(), example["allowed_RW"].tolist(), strict=True):
        for token in range(len(expected[0]) if 0 <= row < len(expected) else 0):
            if not words[token // 32] >> token % 32 & 1:
                expected[row][token] = -math.inf
    assert mask_tokens(**example).tolist() == expected
