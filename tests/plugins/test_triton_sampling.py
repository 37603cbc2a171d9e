"""The sampling kernels beyond their examples: several blocks of a row, and what does not fit."""

from __future__ import annotations

import pytest
import torch

from llmplug import KernelInputError
from llmplug.ops import choose_tokens, filter_tokens
from llmplug_triton import llmplug_kernels

pytest.importorskip("triton", reason="triton is not installed")
KERNELS = {spec.op: spec.load() for spec in llmplug_kernels() if spec.op.endswith("_tokens")}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# numpy, which stands in for the GPU, warns of numbers that wrap around and of the logarithm of 0.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def test_a_row_is_filtered_in_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal logits on both sides of a border: the lowest ids stay."""
    monkeypatch.setattr("llmplug_triton.filter_tokens._BLOCK", 16)
    generator = torch.Generator().manual_seed(0)
    logits_SV = (torch.randn(2, 50, generator=generator) * 2).round().to(DEVICE)
    settings = (
        torch.tensor([13, 0], device=DEVICE),
        torch.tensor([1.0, 0.61], device=DEVICE),
        torch.tensor([0.0, 0.01], device=DEVICE),
    )
    expected = filter_tokens(logits_SV.clone(), *settings)
    assert torch.equal(KERNELS["filter_tokens"](logits_SV, *settings), expected)
    assert (expected > float("-inf")).sum(1).tolist()[0] == 13


def test_a_row_is_chosen_from_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmplug_triton.choose_tokens._CHUNK", 16)
    generator = torch.Generator().manual_seed(1)
    logits_SV = torch.randn(6, 77, generator=generator).to(DEVICE)
    logits_SV[0, [20, 70]] = 9.0  # equal, in two chunks
    logits_SV[1, 76] = float("nan")
    settings = (
        torch.tensor([0.0, 0.0, 1.0, 2.0, 0.5, 1.0], device=DEVICE),
        torch.tensor([0, 1, -5, 2**63 - 1, -(2**63), 3], device=DEVICE),
        torch.tensor([0, 5, 9, 2**40, 7, 2], device=DEVICE),
    )
    got = KERNELS["choose_tokens"](logits_SV, *settings)
    assert torch.equal(got, choose_tokens(logits_SV, *settings))
    assert got[:2].tolist() == [20, 76]


def test_noise_never_chooses_what_is_forbidden() -> None:
    logits_SV = torch.full((60, 3), float("-inf"), device=DEVICE)
    logits_SV[:, 1] = -1e30
    count = torch.arange(60, device=DEVICE)
    got = KERNELS["choose_tokens"](logits_SV, torch.ones(60, device=DEVICE), count, count)
    assert (got == 1).all()


LOGITS = torch.zeros(2, 40, device=DEVICE)
ONES = torch.ones(2, device=DEVICE)
INTS = torch.ones(2, device=DEVICE, dtype=torch.int64)
WORDS = torch.zeros(2, 2, device=DEVICE, dtype=torch.int32)
BAD_INPUTS = {
    "logits in half": ("choose_tokens", (LOGITS.half(), ONES, INTS, INTS)),
    "seeds in int32": ("choose_tokens", (LOGITS, ONES, INTS.int(), INTS)),
    "no vocabulary": ("choose_tokens", (LOGITS[:, :0], ONES, INTS, INTS)),
    "one top_k": ("filter_tokens", (LOGITS, INTS[:1], ONES, ONES)),
    "columns apart": ("filter_tokens", (LOGITS[:, ::2], INTS, ONES, ONES)),
    "ids of another length": ("penalise_tokens", (LOGITS, INTS, INTS[:1], INTS, LOGITS[:, :3])),
    "two penalties": ("penalise_tokens", (LOGITS, INTS, INTS, INTS, LOGITS[:, :2])),
    "logits in double": ("penalise_tokens", (LOGITS.double(), INTS, INTS, INTS, LOGITS[:, :3])),
    "masks too short": ("mask_tokens", (LOGITS, INTS, WORDS[:, :1])),
    "rows in int32": ("mask_tokens", (LOGITS, INTS.int(), WORDS)),
    "logits of one row": ("mask_tokens", (LOGITS[0], INTS, WORDS)),
}


@pytest.mark.parametrize(("op", "args"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_input_that_does_not_fit_is_refused(op, args) -> None:
    with pytest.raises(KernelInputError):
        KERNELS[op](*args)
