"""Weights: everything the table asks for arrives, everything else is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from llmplug import CheckpointError, KernelInputError, Weight
from llmplug.engine.loading import load_weights
from llmplug.ops import REFERENCES, DenseWeight, LoadedTensor, choose_kernels, load_kernels

CPU = torch.device("cpu")
OPS = load_kernels(REFERENCES, [], choose_kernels(REFERENCES, [], "cpu", "float32"))
TABLE = (
    Weight(name="embed", sources=("tok.weight",), kind="embedding", rows=(5,), columns=4),
    Weight(name="layers.{layer}.norm", sources=("l.{layer}.norm",), kind="tensor", rows=(4,)),
    Weight(
        name="layers.{layer}.qk",
        sources=("l.{layer}.q.weight", "l.{layer}.k.weight"),
        bias=("l.{layer}.q.bias", "l.{layer}.k.bias"),
        rows=(4, 2),
        columns=4,
    ),
    Weight(
        name="head", sources=("head.weight",), tied_to=("tok.weight",), rows=(5,), columns=4
    ),
)  # fmt: skip
SHAPES = {
    "tok.weight": (5, 4),
    **{f"l.{i}.norm": (4,) for i in range(2)},
    **{f"l.{i}.q.weight": (4, 4) for i in range(2)},
    **{f"l.{i}.k.weight": (2, 4) for i in range(2)},
    **{f"l.{i}.q.bias": (4,) for i in range(2)},
    **{f"l.{i}.k.bias": (2,) for i in range(2)},
    "head.weight": (5, 4),
}


@dataclass
class FakeCheckpoint:
    tensors: dict[str, LoadedTensor]
    path: Path = Path("some/model")
    config: dict[str, Any] = field(default_factory=dict)


def checkpoint(dtype: torch.dtype = torch.float32, **shapes: tuple[int, ...]) -> FakeCheckpoint:
    generator = torch.Generator().manual_seed(0)
    return FakeCheckpoint({
        name: LoadedTensor(torch.randn(shape, generator=generator).to(dtype))
        for name, shape in {**SHAPES, **shapes}.items()
    })  # fmt: skip


def load(
    source: FakeCheckpoint,
    *,
    table: Sequence[Weight] = TABLE,
    ignored: Sequence[str] = (),
    progress: Any = lambda stage, done, total: None,
    **options: Any,
) -> dict[str, Any]:
    options = {"device": CPU, "dtype": torch.float32, **options}
    return load_weights(source, table, ignored, 2, OPS, progress=progress, **options)


def test_tensors_arrive_joined_under_the_models_names() -> None:
    source = checkpoint()
    weights = load(source)
    tensors = {name: lazy.load() for name, lazy in source.tensors.items()}
    assert set(weights) == {
        "embed", "head", "layers.0.norm", "layers.1.norm", "layers.0.qk", "layers.1.qk"
    }  # fmt: skip
    assert torch.equal(weights["embed"], tensors["tok.weight"])
    packed: DenseWeight = weights["layers.1.qk"]
    for got, part in ((packed.weight_OI, "weight"), (packed.bias_O, "bias")):
        assert torch.equal(got, torch.cat([tensors[f"l.1.q.{part}"], tensors[f"l.1.k.{part}"]]))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_floats_are_cast(stored: torch.dtype, dtype: torch.dtype) -> None:
    source = checkpoint(stored)
    weights = load(source, dtype=dtype)
    assert torch.equal(weights["embed"], source.tensors["tok.weight"].load().to(dtype))
    assert weights["layers.0.qk"].weight_OI.dtype == weights["layers.0.qk"].bias_O.dtype == dtype


def test_own_head_wins_over_the_tied_one() -> None:
    source = checkpoint()
    head: DenseWeight = load(source)["head"]
    assert torch.equal(head.weight_OI, source.tensors["head.weight"].load())


def test_tied_head_shares_memory_with_the_embedding() -> None:
    source = checkpoint(torch.bfloat16)
    del source.tensors["head.weight"]
    weights = load(source)
    assert torch.equal(weights["head"].weight_OI, source.tensors["tok.weight"].load().float())
    assert weights["head"].weight_OI.data_ptr() == weights["embed"].data_ptr()


@pytest.mark.parametrize("name", ["tok.weight", "l.1.k.weight", "l.0.q.bias", "l.1.norm"])
def test_missing_tensor_is_named(name: str) -> None:
    source = checkpoint()
    del source.tensors[name]
    with pytest.raises(CheckpointError, match=f"some/model.*lacks {name}"):
        load(source)


def test_untied_head_may_not_be_missing() -> None:
    source = checkpoint()
    del source.tensors["head.weight"]
    table = [*TABLE[:-1], Weight(name="head", sources=("head.weight",))]
    with pytest.raises(CheckpointError, match=r"lacks head\.weight"):
        load(source, table=table)


@pytest.mark.parametrize("name", ["l.0.o.weight", "l.2.norm", "vision.weight"])
def test_extra_tensor_is_named(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"no use for {name}"):
        load(checkpoint(**{name: (1,)}))


def test_many_extra_tensors_are_counted() -> None:
    extra = {f"x.{i}": (1,) for i in range(9)}
    with pytest.raises(CheckpointError, match=r"x\.0, x\.1, x\.2, x\.3, x\.4 and 4 more"):
        load(checkpoint(**extra))


def test_ignored_tensors_may_be_there() -> None:
    extra = {"l.0.inv_freq": (2,), "l.1.inv_freq": (2,), "version": (1,)}
    weights = load(checkpoint(**extra), ignored=("l.{layer}.inv_freq", "version"))
    assert "version" not in weights
    with pytest.raises(CheckpointError, match=r"l\.2\.inv_freq"):  # there is no layer 2
        load(checkpoint(**{"l.2.inv_freq": (2,)}), ignored=("l.{layer}.inv_freq",))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("tok.weight", (6, 4)),
        ("tok.weight", (5, 3)),
        ("tok.weight", (20,)),
        ("l.1.q.weight", (4, 5)),
        ("l.0.k.weight", (4, 4)),
        ("l.1.norm", (4, 1)),
        ("l.0.k.bias", (4,)),
        ("head.weight", (5, 5)),
    ],
)
def test_wrong_shape_is_named(name: str, shape: tuple[int, ...]) -> None:
    promised = ", ".join(str(size) for size in SHAPES[name])
    with pytest.raises(CheckpointError, match=rf"{name} has shape .*promises \({promised}"):
        load(checkpoint(**{name: shape}))


def test_integers_are_no_weights() -> None:
    source = checkpoint()
    source.tensors["l.0.norm"] = LoadedTensor(torch.ones(4, dtype=torch.int32))
    with pytest.raises(CheckpointError, match=r"l\.0\.norm holds torch\.int32"):
        load(source)


def test_progress_counts_every_byte_once() -> None:
    source = checkpoint(torch.bfloat16)
    seen: list[tuple[str, int, int]] = []
    load(source, progress=lambda *step: seen.append(step))
    total = sum(lazy.num_bytes for lazy in source.tensors.values())
    assert seen[0] == ("weights", 0, total)
    assert seen[-1] == ("weights", total, total)
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})


def test_a_format_that_the_kernel_lacks_is_refused() -> None:
    with pytest.raises(KernelInputError, match="int4"):
        load(checkpoint(), linear_format="int4")
