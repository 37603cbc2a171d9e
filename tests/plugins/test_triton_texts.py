"""Whole texts in Triton, in the interpreter where there is no GPU: borders, packing, windows."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch

from llmplug.ops import REFERENCES, TextStarts, layer_norm, pool_texts, send_to_device
from llmplug_triton import llmplug_kernels
from tests.ops.kernel_checks import poisoned_memory  # noqa: F401 - a fixture

pytest.importorskip("triton", reason="triton is not installed")
OPS = ("layer_norm", "pool_texts", "text_attention")
KERNELS = {spec.op: spec.load() for spec in llmplug_kernels() if spec.op in OPS}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# numpy, which stands in for the GPU, warns of the NaN that a test is about.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def starts_of(lengths: list[int]) -> list[int]:
    return [0, *accumulate(lengths)]


def attend_one(q_LHW, k_LHW, v_LHW, scale: float, window: int | None) -> torch.Tensor:
    """The formula in float64, for one text."""
    scores_HLL = torch.einsum("qhw,khw->hqk", q_LHW.double(), k_LHW.double()) * scale
    places_L = torch.arange(len(q_LHW), device=DEVICE)
    if window is not None:
        is_far_LL = (places_L[:, None] - places_L).abs() > window
        scores_HLL.masked_fill_(is_far_LL, float("-inf"))
    return torch.einsum("hqk,khw->qhw", scores_HLL.softmax(-1), v_LHW.double())


@pytest.mark.parametrize("window", [None, 0, 1, 63, 64])
def test_attention_around_the_borders_of_tiles_equals_the_formula(window: int | None) -> None:
    """Texts of one tile, one token less and more, and of two; a width that is no power of two."""
    starts = starts_of([63, 64, 0, 65, 129])
    q_THW, k_THW, v_THW = randn(3, starts[-1], 2, 20, seed=1)
    got = KERNELS["text_attention"](q_THW, k_THW, v_THW, starts, scale=0.3, window=window)
    for start, end in pairwise(starts):
        text = slice(start, end)
        expected = attend_one(q_THW[text], k_THW[text], v_THW[text], 0.3, window)
        torch.testing.assert_close(got[text].double(), expected, rtol=1e-5, atol=1e-5)


def test_texts_are_cut_into_tiles_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmplug_triton import text_attention

    sent = []

    def send(numbers, *where):
        sent.append(numbers)
        return send_to_device(numbers, *where)

    monkeypatch.setattr(text_attention, "send_to_device", send)
    plain = starts_of([63, 0, 70])
    q_THW, k_THW, v_THW = randn(3, plain[-1], 2, 16, seed=4)
    for starts, count in ((plain, 2), (TextStarts(plain), 1)):
        sent.clear()
        for window in (None, 3):  # two layers
            got, expected = (
                attend(q_THW, k_THW, v_THW, starts, scale=1.0, window=window)
                for attend in (KERNELS["text_attention"], REFERENCES["text_attention"].reference)
            )
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert len(sent) == count


def test_attention_reads_heads_within_a_joined_projection() -> None:
    joined_TD = randn(40, 3 * 2 * 16, seed=2)
    q_THW, k_THW, v_THW = (part.unflatten(-1, (2, 16)) for part in joined_TD.chunk(3, dim=-1))
    settings = {"scale": 0.25, "window": 5}
    got = KERNELS["text_attention"](q_THW, k_THW, v_THW, [0, 7, 40], **settings)
    expected = REFERENCES["text_attention"].reference(q_THW, k_THW, v_THW, [0, 7, 40], **settings)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 3])
def test_a_text_is_the_same_wherever_it_is_packed(window: int | None) -> None:
    x_3LHW = randn(3, 70, 1, 16, seed=3)
    others_3THW = randn(3, 45, 1, 16, seed=4)
    alone = KERNELS["text_attention"](*x_3LHW, [0, 70], scale=0.25, window=window)
    packed_3THW = torch.cat((others_3THW[:, :13], x_3LHW, others_3THW[:, 13:]), 1)
    starts = [0, 13, 83, 115]
    packed = KERNELS["text_attention"](*packed_3THW, starts, scale=0.25, window=window)
    assert torch.equal(packed[13:83], alone)
    for kind in ("cls", "last", "mean", "max"):
        settings = {"kind": kind, "is_normalised": True}
        pooled = KERNELS["pool_texts"](packed_3THW[0, :, 0], starts, **settings)
        assert torch.equal(pooled[1:2], KERNELS["pool_texts"](x_3LHW[0, :, 0], [0, 70], **settings))


@pytest.mark.parametrize("kind", ["cls", "last", "mean", "max"])
def test_texts_around_the_borders_of_blocks_are_pooled(kind: str) -> None:
    starts = starts_of([31, 32, 33, 65])
    for width in (127, 129, 257):
        hidden_TD = randn(starts[-1], 2 * width, seed=width)[:, width:]  # rows are apart
        settings = {"kind": kind, "is_normalised": width == 129}
        got = KERNELS["pool_texts"](hidden_TD, starts, **settings)
        expected = pool_texts(hidden_TD.contiguous(), starts, **settings)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_a_maximum_does_not_hide_what_is_no_number() -> None:
    hidden_TD = randn(70, 6, seed=5)
    hidden_TD[50, 4] = float("nan")
    got = KERNELS["pool_texts"](hidden_TD, [0, 35, 70], kind="max", is_normalised=False)
    assert got.isnan().nonzero().tolist() == [[1, 4]]


def test_vectors_of_zeros_have_no_length_and_stay_zeros() -> None:
    got = KERNELS["pool_texts"](
        torch.zeros(4, 9, device=DEVICE), [0, 1, 4], kind="mean", is_normalised=True
    )
    assert torch.equal(got, torch.zeros(2, 9, device=DEVICE))


def test_a_large_mean_does_not_drown_the_variance() -> None:
    x_TD = randn(3, 100, seed=6) * 0.01 + 1000
    weight_D, bias_D = randn(100, seed=7), randn(100, seed=8)
    got = KERNELS["layer_norm"](x_TD, weight_D, bias_D, eps=1e-12)
    centred_TD = x_TD.double() - x_TD.double().mean(1, keepdim=True)
    scale_T1 = (centred_TD.square().mean(1, keepdim=True) + 1e-12).rsqrt()
    expected = centred_TD * scale_T1 * weight_D.double() + bias_D.double()
    # float32 numbers near 1000 are 6e-5 apart, which is 0.6 % of a deviation: the mean is rounded.
    torch.testing.assert_close(got.double(), expected, rtol=1e-2, atol=2e-2)


def test_norms_read_rows_within_a_wider_tensor() -> None:
    wide_TD, residual_TD = randn(5, 90, seed=9), randn(5, 80, seed=10)
    weight_D = randn(30, seed=11)
    settings = {"eps": 1e-5, "residual_TD": residual_TD[:, 50:]}
    got = KERNELS["layer_norm"](wide_TD[:, 30:60], weight_D, None, **settings)
    expected = layer_norm(wide_TD[:, 30:60], weight_D, None, **settings)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
