"""The fused layer gives what its parts give one after the other, to the bit.

tests/ops compares it with the torch references; here its own kernels are the other side.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmplug import KernelInputError
from llmplug.ops import REFERENCES, DecoderLayer, KernelTable
from llmplug.ops.decoder_layer_examples import DECODER_LAYER, apply_decoder_layer
from llmplug.ops.table import make_reference_table
from llmplug_cpu import build, llmplug_kernels
from llmplug_cpu.decoder_layer import FusedDecoderLayer
from tests.plugins.block_tensors import BLOCKS, make_source

REASON = build.find_reason_against()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
CPU = torch.device("cpu")
FORMATS = ("float32", "bfloat16", "int8", *BLOCKS, "w4a8")


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    references = make_reference_table(REFERENCES)
    own = {spec.op: spec.load() for spec in llmplug_kernels()}
    return {op: own.get(op, getattr(references, op)) for op in REFERENCES}


@pytest.fixture(scope="module")
def fused(parts: dict[str, Any]) -> KernelTable:
    return KernelTable(parts)


@pytest.fixture(scope="module")
def composed(parts: dict[str, Any]) -> KernelTable:
    return KernelTable(compose({**parts, "decoder_layer": None}))


def compose(kernels: dict[str, Any]) -> dict[str, Any]:
    """Compose, of these kernels, what no kernel of the plugin fuses."""
    table = KernelTable(kernels)
    for op in REFERENCES.values():
        if op.compose is not None and not isinstance(kernels[op.name], FusedDecoderLayer):
            kernels[op.name] = op.compose(table)
    return kernels


class BlockLinear:
    """The plugin's linear, with weights rounded to some format first; gate and up may differ."""

    def __init__(self, linear: Any, formats: tuple[str, ...]) -> None:
        self._linear = linear
        self._formats = formats

    def pack(self, sources: Any, bias_O: Any, **settings: Any) -> Any:
        wanted = "int4" if self._formats[0] in BLOCKS else self._formats[0]
        names = ["Q4_1" if name == "w4a8" else name for name in self._formats] * len(sources)
        made = [make_source(s.tensor, name) for s, name in zip(sources, names, strict=False)]
        return self._linear.pack(made, bias_O, **{**settings, "format": wanted})

    def __call__(self, x_TI: torch.Tensor, packed: Any) -> torch.Tensor:
        return self._linear(x_TI, packed)


def with_formats(table: KernelTable, *formats: str) -> KernelTable:
    kernels = {op: getattr(table, op) for op in REFERENCES}
    kernels["linear"] = BlockLinear(table.linear, formats)
    return KernelTable(compose(kernels))


def examples(width: int, ffn_width: int) -> list[dict[str, Any]]:
    """The op's examples in widths that blocks divide."""
    made = DECODER_LAYER.example_inputs(CPU, torch.float32)
    heads = {"num_heads": 4, "num_kv_heads": 2, "head_width": 16, "rotary": 8}
    return [{**each, "width": width, "ffn_width": ffn_width, **heads} for each in made]


@pytest.mark.parametrize("formats", [(name,) for name in FORMATS] + [("Q4_1", "Q8_0")])
@pytest.mark.parametrize("ffn_width", [96, 160, 32])
def test_fused_equals_its_parts(fused, composed, formats, ffn_width):
    for example in examples(64, ffn_width):
        got = apply_decoder_layer(with_formats(fused, *formats), example)
        expected = apply_decoder_layer(with_formats(composed, *formats), example)
        assert torch.equal(got, expected)


def test_halves_that_share_a_panel_are_gated_too(fused, composed):
    """A feed-forward width that is no multiple of 16: gate and up meet inside a panel."""
    for example in DECODER_LAYER.example_inputs(CPU, torch.float32):
        narrow = {**example, "ffn_width": 52}
        assert torch.equal(
            apply_decoder_layer(fused, narrow), apply_decoder_layer(composed, narrow)
        )


@pytest.mark.parametrize("name", FORMATS)
def test_a_sequence_is_the_same_beside_any_other(fused, name):
    table = with_formats(fused, name)
    example = examples(64, 96)[1]
    num_new = example["lens"][0][0]
    alone = apply_decoder_layer(table, {**example, "lens": example["lens"][:1]})
    for neighbours in (1, 99):
        beside = apply_decoder_layer(table, {**example, "neighbours": neighbours})
        assert torch.equal(beside[:num_new], alone)


def make_layer(fused: KernelTable, **changes: Any) -> DecoderLayer:
    def pack(outputs: int, inputs: int) -> Any:
        source = make_source(torch.ones(outputs, inputs), "float32")
        return fused.linear.pack([source], None, device=CPU, dtype=torch.float32)

    fields: dict[str, Any] = {
        "attention_norm": torch.ones(8), "qkv": pack(24, 8), "o": pack(8, 8),
        "mlp_norm": torch.ones(8), "gate_up": pack(32, 8), "down": pack(8, 16),
        "rope_table_CR": torch.ones(64, 8), "num_heads": 1, "num_kv_heads": 1, "head_width": 8,
        "scale": 1.0, "eps": 1e-5,
    }  # fmt: skip
    return DecoderLayer(**{**fields, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"num_heads": 2},
        {"head_width": 4},
        {"mlp_norm": torch.ones(7)},
        {"q_norm": torch.ones(7)},
        {"rope_table_CR": torch.ones(64, 16)},
        {"o": torch.ones(8, 8)},
        {"attention_norm": torch.ones(8, dtype=torch.bfloat16)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_layer_that_does_not_fit_is_refused(fused, changes):
    fused.decoder_layer.prepare(make_layer(fused))  # as it is, it fits
    with pytest.raises(KernelInputError):
        fused.decoder_layer.prepare(make_layer(fused, **changes))
