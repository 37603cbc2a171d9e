"""A model divided among ranks: every number is somewhere, and what cannot be divided is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_checkpoint, open_checkpoint
from tiny_encoders import ENCODERS, make_encoder

from llmplug import CheckpointError, LayerCache, ModelShape, Weight
from llmplug.engine.loading import load_weights
from llmplug.engine.split import check_split, split_shape, take_share
from llmplug.ops import REFERENCES, LoadedTensor
from llmplug.ops.table import make_reference_table
from llmplug.testing.folder_checkpoint import open_folder

CPU = torch.device("cpu")
SHAPE = ModelShape(
    vocab_size=7,
    context_length=8,
    num_layers=1,
    width=6,
    layers=(LayerCache(num_kv_heads=2, head_width=3),),
)
EMBED = Weight(
    name="embed", sources=("tok",), kind="embedding", rows=(7,), columns=6, split="vocabulary"
)
QKV = Weight(
    name="layers.{layer}.qkv",
    sources=("l.{layer}.q", "l.{layer}.k", "l.{layer}.v"),
    bias=("l.{layer}.qb", "l.{layer}.kb", "l.{layer}.vb"),
    rows=(12, 6, 6),
    columns=6,
    split="outputs",
    split_unit=3,
    repeats=(False, True, True),
)
FUSE: dict[str, Any] = {
    "sources": ("l.{layer}.f",), "bias": ("l.{layer}.fb",), "rows": (24,),
    "split_parts": (12, 6, 6),
}  # fmt: skip
FUSED = replace(QKV, **FUSE)
OUT = Weight(
    name="layers.{layer}.o",
    sources=("l.{layer}.o",),
    bias=("l.{layer}.ob",),
    rows=(6,),
    columns=12,
    split="inputs",
    split_unit=3,
)
SINKS = Weight(
    name="layers.{layer}.sinks",
    sources=("l.{layer}.s",),
    kind="tensor",
    rows=(4,),
    split="outputs",
)
NORM = Weight(name="norm", sources=("n",), kind="tensor", rows=(6,))
HEAD = Weight(
    name="head",
    sources=("head",),
    tied_to=("tok",),
    rows=(7,),
    columns=6,
    split="vocabulary",
)
TABLE = (EMBED, QKV, OUT, SINKS, NORM, HEAD)
SHAPES = {
    "tok": (7, 6), "n": (6,), "l.0.q": (12, 6), "l.0.k": (6, 6), "l.0.v": (6, 6),
    "l.0.qb": (12,), "l.0.kb": (6,), "l.0.vb": (6,), "l.0.o": (6, 12), "l.0.ob": (6,),
    "l.0.s": (4,),
}  # fmt: skip


@dataclass
class FakeCheckpoint:
    tensors: dict[str, Any]
    path: Path = Path("some/model")
    config: dict[str, Any] = field(default_factory=dict)


class ReadWhole:
    """A lazy tensor of a loader that knows nothing of parts."""

    def __init__(self, tensor: torch.Tensor) -> None:
        loaded = LoadedTensor(tensor)
        self.shape, self.format, self.num_bytes = loaded.shape, loaded.format, loaded.num_bytes
        self.load, self.raw = loaded.load, loaded.raw


def make_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def load(
    rank: int,
    num_ranks: int,
    *,
    table: Sequence[Weight] = TABLE,
    kind: Any = LoadedTensor,
    tensors: dict[str, torch.Tensor] | None = None,
) -> dict[str, Any]:
    named = (tensors or make_tensors()).items()
    source = FakeCheckpoint({name: kind(tensor) for name, tensor in named})
    return load_weights(
        source, table, (), 1, make_reference_table(REFERENCES),
        device=CPU, dtype=torch.float32, progress=lambda stage, done, total: None,
        rank=rank, num_ranks=num_ranks,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [LoadedTensor, ReadWhole])
def test_two_ranks_hold_all_of_it_once(kind: Any) -> None:
    whole, ranks = load(0, 1), [load(rank, 2, kind=kind) for rank in range(2)]
    qkv = whole["layers.0.qkv"]
    for got, want in (("weight_OI", qkv.weight_OI), ("bias_O", qkv.bias_O)):
        q, k, v = want.split((12, 6, 6))
        for rank, part in enumerate(ranks):
            mine = [q[6 * rank :][:6], k[3 * rank :][:3], v[3 * rank :][:3]]
            assert torch.equal(getattr(part["layers.0.qkv"], got), torch.cat(mine))
    outs = [part["layers.0.o"].packed for part in ranks]
    columns = torch.cat([out.weight_OI for out in outs], 1)
    assert torch.equal(columns, whole["layers.0.o"].weight_OI)
    assert torch.equal(outs[0].bias_O, whole["layers.0.o"].bias_O)
    assert outs[1].bias_O is None  # it is added once
    assert torch.equal(torch.cat([p["layers.0.sinks"] for p in ranks]), whole["layers.0.sinks"])
    assert all(torch.equal(part["norm"], whole["norm"]) for part in ranks)


@pytest.mark.parametrize("kind", [LoadedTensor, ReadWhole])
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_parts_of_one_source_are_divided_as_sources_are(num_ranks: int, kind: Any) -> None:
    """Whole heads of each part; by four, two ranks share one of keys and of values."""
    fused = make_tensors()
    for name, parts in {"l.0.f": QKV.sources, "l.0.fb": QKV.bias}.items():
        fused[name] = torch.cat([fused.pop(part.format(layer=0)) for part in parts])
    table = [FUSED if weight is QKV else weight for weight in TABLE]
    for rank in range(num_ranks):
        want = load(rank, num_ranks)["layers.0.qkv"]
        got = load(rank, num_ranks, table=table, kind=kind, tensors=fused)["layers.0.qkv"]
        assert torch.equal(got.weight_OI, want.weight_OI)
        assert torch.equal(got.bias_O, want.bias_O)


def test_a_vocabulary_need_not_divide() -> None:
    whole, ranks = load(0, 1), [load(rank, 3) for rank in range(3)]
    tables = [part["embed"] for part in ranks]
    assert [len(table.table_VD) for table in tables] == [2, 2, 3]
    assert [table.first for table in tables] == [0, 2, 4]
    assert torch.equal(torch.cat([table.table_VD for table in tables]), whole["embed"])
    for part in ranks:
        assert part["head"].widths == (2, 2, 3)
        weight_OI = part["head"].packed.weight_OI  # tied: the same rows, the same memory
        assert weight_OI.data_ptr() == part["embed"].table_VD.data_ptr()


@pytest.mark.parametrize(
    ("size", "num_ranks", "block", "shares"),
    [
        (11008, 2, 256, [5376, 5632]),  # 43 blocks
        (11008, 4, 256, [2560, 2816, 2816, 2816]),
        (1536, 3, 256, [512, 512, 512]),
        (1536, 4, 128, [384] * 4),
        (11008, 8, 128, [1280, 1408, 1408, 1408] * 2),
        (75, 2, 1, [37, 38]),
        (96, 2, 1, [48, 48]),  # three blocks of 32 would be 32 and 64
    ],
)
def test_single_rows_go_by_blocks_where_that_is_fair(
    size: int, num_ranks: int, block: int, shares: list[int]
) -> None:
    bounds = [take_share(size, 1, rank, num_ranks) for rank in range(num_ranks)]
    assert [end - start for start, end in bounds] == shares
    assert [start for start, _ in bounds[1:]] == [end for _, end in bounds[:-1]]
    assert (bounds[0][0], bounds[-1][1]) == (0, size)
    assert all(start % block == 0 for start, _ in bounds)


def test_ranks_share_a_head_of_which_there_are_fewer() -> None:
    """Four ranks, four query heads, two of keys and values: neighbours share."""
    whole = load(0, 1)["layers.0.qkv"].weight_OI
    for rank in range(4):
        got = load(rank, 4)["layers.0.qkv"].weight_OI
        head = rank // 2
        rows = [*range(3 * rank, 3 * rank + 3)]
        rows += [start + 3 * head + i for start in (12, 18) for i in range(3)]
        assert torch.equal(got, whole[rows])
    assert split_shape(SHAPE, 4).layers[0].num_kv_heads == 1
    assert split_shape(SHAPE, 2).layers[0].num_kv_heads == 1


@pytest.mark.parametrize(
    ("change", "num_ranks", "reason"),
    [
        ({}, 1, None),
        ({}, 2, None),
        ({}, 4, None),
        ({}, 3, "2 key/value heads are not divided evenly by 3"),
        ({"q": {"rows": (9, 6, 6)}}, 2, "9 rows of layers.0.qkv in units of 3 are not divided"),
        ({"q": {"repeats": ()}}, 4, "6 rows of layers.0.qkv in units of 3 are not divided"),
        ({"o": {"columns": 9}}, 2, "9 columns of layers.0.o in units of 3 are not divided"),
        ({"q": {"split_unit": (3, 3, 4)}}, 2, "6 rows of layers.0.qkv in units of 4 are"),
        ({"o": {"columns": None}}, 2, "0 columns of layers.0.o in units of 3 are"),
        ({"embed": {"rows": (1,)}}, 2, "1 rows of embed are not divided evenly by 2"),
        (
            {"q": {**FUSE, "split_parts": (12, 9, 3)}}, 2,
            "9 rows of layers.0.qkv in units of 3 are not divided",
        ),
        ({"embed": {"rows": ()}}, 2, "0 rows of embed are not divided evenly by 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_divided_is_said(
    change: dict[str, dict[str, Any]], num_ranks: int, reason: str | None
) -> None:
    names = {"embed": EMBED, "q": QKV, "o": OUT}
    table = [replace(weight, **change.get(name, {})) for name, weight in names.items()]
    got = check_split(table, SHAPE, num_ranks)
    assert got is None if reason is None else (got or "").startswith(reason)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": "rows"}, "split='rows', not one of outputs, inputs, vocabulary"),
        ({"kind": "tensor", "split": "inputs"}, "split='inputs', which is for linear weights"),
        ({"split": "vocabulary"}, "split='vocabulary', and that it has 3 sources"),
        ({"split_unit": (3, 3)}, "split_unit=(3, 3) and"),
        ({"split_unit": 0}, "split_unit=0 and"),
        ({"split_parts": (6, 6)}, "split_parts=(6, 6), not of the rows of one source of outputs"),
        ({**FUSE, "rows": (25,)}, "split_parts=(12, 6, 6), not of the rows of one source"),
        ({**FUSE, "split_parts": (24, 0)}, "split_parts=(24, 0), not of the rows of one source"),
        ({**FUSE, "split": "inputs"}, "split_parts=(12, 6, 6), not of the rows of one source"),
        ({**FUSE, "repeats": (True,)}, "split_unit=3 and repeats=(True,), one for each source"),
        ({"repeats": (True,)}, "split_unit=3 and repeats=(True,), one for each source"),
    ],
)
def test_what_a_plugin_cannot_say_is_named(change: dict[str, Any], words: str) -> None:
    reason = check_split([EMBED, replace(QKV, **change)], SHAPE, 2)
    assert (reason or "").startswith(f"its plugin says of layers.0.qkv {words}")


def test_a_plugin_that_declares_nothing_is_refused() -> None:
    table = [replace(weight, split=None) for weight in TABLE]
    assert check_split(table, SHAPE, 2) == "its plugin does not say how its weights are divided"


def test_two_weights_divide_a_tensor_in_one_way() -> None:
    table = [replace(HEAD, split="outputs", split_unit=7) if w is HEAD else w for w in TABLE]
    with pytest.raises(CheckpointError, match="tok is read by two weights, which divide it in two"):
        load(0, 2, table=table)


def test_a_tensor_that_cannot_be_cut_is_named() -> None:
    class Block(ReadWhole):
        def slice(self, dimension: int, start: int, end: int) -> Any:
            raise CheckpointError("a block of 32 would be cut")

    with pytest.raises(CheckpointError, match=r"tok cannot be divided: a block of 32 would be cut"):
        load(0, 2, kind=Block)


def test_what_is_wrong_with_the_file_is_said_first() -> None:
    with pytest.raises(CheckpointError, match=r"l\.0\.q has shape \(12, 6\).* promises \(24, 6\)"):
        load(0, 2, table=[replace(w, rows=(24, 6, 6)) if w is QKV else w for w in TABLE])


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_rank_of_two_holds_little_more_than_half(family: str, tmp_path: Path) -> None:
    """Norms are whole on both; all else is shared."""
    checkpoint = open_checkpoint(make_checkpoint(family, tmp_path, tie_word_embeddings=False))
    assert measure_share(import_module(f"llmplug_{family}"), checkpoint) <= 0.55


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_rank_of_two_holds_little_more_than_half_of_an_encoder(
    family: str, tmp_path: Path
) -> None:
    """In proportions as of real ones: BERT's table of positions is small beside all else."""
    kind, changes = ENCODERS[family]
    changes = {**changes, "vocab_size": 800, "intermediate_size": 192}
    checkpoint = open_folder(make_encoder(kind, changes, tmp_path))
    assert measure_share(import_module(f"llmplug_{family}"), checkpoint) <= 0.55


def measure_share(plugin: Any, checkpoint: Any) -> float:
    """Return how much of a model's bytes the larger rank of two holds."""
    spec, sizes = plugin.llmplug_models()[0], []
    num_layers = spec.describe(checkpoint.config).num_layers
    for rank, num_ranks in ((0, 1), (0, 2), (1, 2)):
        weights = load_weights(
            checkpoint, spec.weights(checkpoint.config), spec.ignored, num_layers,
            make_reference_table(REFERENCES),
            device=CPU, dtype=torch.float32, progress=lambda stage, done, total: None,
            rank=rank, num_ranks=num_ranks,
        )  # fmt: skip
        sizes.append(sum(count_bytes(weight) for weight in weights.values()))
    return float(max(sizes[1:]) / sizes[0])


def count_bytes(weight: Any) -> int:
    weight = getattr(weight, "packed", getattr(weight, "table_VD", weight))
    return weight.nbytes if isinstance(weight, torch.Tensor) else weight.num_bytes
