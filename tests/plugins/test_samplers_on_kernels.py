"""The standard samplers over Triton's kernels: the tokens that the twins for CPUs choose."""

from __future__ import annotations

import pytest
import torch

from llmplug import SamplerRow
from llmplug.ops import REFERENCES
from llmplug.ops.table import KernelChoice, KernelTable, make_reference_table
from llmplug_standard import llmplug_samplers
from llmplug_triton import llmplug_kernels

pytest.importorskip("triton", reason="triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KERNELS = {spec.op: spec.load() for spec in llmplug_kernels() if spec.op.endswith("_tokens")}
OPS = KernelTable(
    KERNELS, tuple(KernelChoice(op=op, kernel="triton", plugin="triton") for op in KERNELS)
)
SPECS = {spec.name: spec for spec in llmplug_samplers()}
SIZE = 700
# numpy, which stands in for the GPU, warns of numbers that wrap around and of the logarithm of 0.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def make_rows(name: str, **params) -> list[SamplerRow]:
    return [
        SamplerRow(SPECS[name].params(**params), (1, 2), (3,), seed=i * 7919 - 20_000, position=i)
        for i in range(24)
    ]


def make_logits() -> torch.Tensor:
    logits = torch.randn(24, SIZE, generator=torch.Generator().manual_seed(5)) * 2
    logits[8:, ::3] = float("-inf")
    return logits


@pytest.mark.parametrize("temperature", [0.0, 0.4, 1.0, 3.0])
def test_kernels_choose_what_the_twins_for_cpus_choose(temperature) -> None:
    logits = make_logits()
    rows = make_rows("choose_tokens", temperature=temperature)
    fused = SPECS["choose_tokens"].make(SIZE, DEVICE, OPS)
    found = fused.choose(logits.clone().to(DEVICE), rows).cpu()
    chooser = SPECS["greedy" if temperature == 0 else "categorical"]
    twin = chooser.make(SIZE, torch.device("cpu"), make_reference_table(REFERENCES))
    scaled = logits / (temperature or 1)
    assert found.tolist() == twin.choose(scaled, rows).tolist()
    alone = [
        int(fused.choose(logits[i : i + 1].clone().to(DEVICE), rows[i : i + 1]))
        for i in (0, 11, 23)
    ]
    assert alone == [int(found[i]) for i in (0, 11, 23)]


def test_kernels_filter_what_the_twins_for_cpus_filter() -> None:
    logits = make_logits()
    on_kernels = logits.clone().to(DEVICE)
    SPECS["filter_tokens"].make(SIZE, DEVICE, OPS).apply(
        on_kernels, make_rows("filter_tokens", top_k=90, top_p=0.9, min_p=0.01)
    )
    for name, value in (("top_k", 90), ("top_p", 0.9), ("min_p", 0.01)):
        twin = SPECS[name].make(SIZE, torch.device("cpu"), make_reference_table(REFERENCES))
        twin.apply(logits, make_rows(name, **{name: value}))
    assert on_kernels.cpu().equal(logits)
