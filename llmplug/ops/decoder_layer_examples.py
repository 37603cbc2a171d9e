"""How a decoder layer is compared with its parts: example steps, and a way to run them.

Legend: T packed tokens, D model width, N query heads, K key/value heads, H head width, F width of
the feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from llmplug.ops.attacker_rows import make_extreme
from llmplug.ops.attention_examples import make_attention_batch, make_attention_example
from llmplug.ops.decoder_layer import ComposedDecoderLayer, DecoderLayer
from llmplug.ops.linear import LoadedTensor
from llmplug.ops.rope import make_rope_table
from llmplug.ops.table import Op

if TYPE_CHECKING:
    from llmplug.ops.table import KernelTable


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Describe steps: sequences as for attention, widths, and what a layer may have or lack."""
    # (new tokens, cached tokens) of each sequence; N, K, H; D; F; share of H that is rotated
    steps: list[tuple[list[tuple[int, int]], tuple[int, int, int], int, int, float]] = [
        ([(1, 1)], (1, 1, 8), 8, 16, 1.0),
        ([(1, 5), (1, 70), (40, 40)], (9, 3, 64), 576, 1536, 1.0),
        ([(1, 33), (5, 40), (17, 17)], (6, 2, 16), 40, 56, 0.5),
        ([(1, 12), (1, 0), (1, 0)], (4, 2, 16), 64, 96, 1.0),
        ([(7, 7), (130, 130)], (4, 4, 32), 96, 100, 1.0),
        ([], (4, 2, 16), 64, 96, 1.0),
    ]
    examples = []
    for number, (lens, heads, width, ffn_width, rotary_share) in enumerate(steps):
        example = make_attention_example(lens, heads=heads, window=20 if number == 4 else None)
        examples.append({
            **example, "device": device, "dtype": dtype, "width": width, "ffn_width": ffn_width,
            "rotary": int(heads[2] * rotary_share),
            "has_head_norms": number in {2, 4}, "has_bias": number == 2,
        })  # fmt: skip
    return examples


def _scaled_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    cache = {"cache_dtype": torch.float8_e4m3fn, "scales": (0.25, 0.3)}
    return [{**example, **cache} for example in _example_inputs(device, dtype)[2:4]]


def apply_decoder_layer(ops: KernelTable, example: Mapping[str, Any]) -> torch.Tensor:
    """Run the example's step through two layers of `ops.decoder_layer`: their output_TD.

    `example["neighbours"]` is another seed for all sequences but the first, if it is there;
    `example["attacker"]` the number of one whose inputs are extreme;
    `example["format"]` is the format to keep weights in, else float32 or what dtype says.
    """
    device, dtype, heads = example["device"], example["dtype"], _heads(example)
    batch, _, past, num_pages = make_attention_batch(example)
    pasts, residuals, positions = [], [], [torch.zeros(0, dtype=torch.long)]
    for s, (num_new, _) in enumerate(example["lens"]):
        # A generator of its own: a sequence's numbers do not depend on its neighbours.
        seed = example["seed"] if s == 0 else example.get("neighbours", example["seed"])
        generator = torch.Generator().manual_seed(1000 * seed + s)
        kv_shape = (2, 2, len(past[s]), heads[1], heads[2])
        past_L2CKH = torch.randn(kv_shape, generator=generator)
        new_TD = torch.randn(num_new, example["width"], generator=generator)
        if s == example.get("attacker"):
            past_L2CKH, new_TD = make_extreme(past_L2CKH), make_extreme(new_TD)
        pasts.append(past_L2CKH.to(device, dtype))
        residuals.append(new_TD)
        positions.append(torch.arange(len(past[s]), len(past[s]) + num_new))
    residual_TD = torch.cat([torch.zeros(0, example["width"]), *residuals]).to(device, dtype)
    positions_T = torch.cat(positions).to(device)
    x_TD: torch.Tensor | None = None
    for number in range(2):
        layer = ops.decoder_layer.prepare(_make_layer(ops, example, number))
        cache = ops.attention.allocate(
            num_pages, example["page_size"], heads[1], heads[2], device=device,
            dtype=example["cache_dtype"] or dtype,
        )  # fmt: skip
        key_scale, value_scale = example["scales"]
        cache = replace(cache, key_scale=key_scale, value_scale=value_scale)
        for slots, past_kv in zip(past, pasts, strict=True):
            ops.attention.store(cache, past_kv[number, 0], past_kv[number, 1], slots)
        x_TD, residual_TD = ops.decoder_layer(layer, x_TD, residual_TD, positions_T, cache, batch)
    if x_TD is None:
        raise AssertionError("two layers ran")
    return x_TD + residual_TD


def _heads(example: Mapping[str, Any]) -> tuple[int, int, int]:
    return example["num_heads"], example["num_kv_heads"], example["head_width"]


def _make_layer(ops: KernelTable, example: Mapping[str, Any], number: int) -> DecoderLayer:
    generator = torch.Generator().manual_seed(77 + number)
    device, dtype = example["device"], example["dtype"]
    num_heads, num_kv_heads, head_width = _heads(example)
    width, ffn_width = example["width"], example["ffn_width"]

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def pack(columns: int, *rows: int) -> Any:
        sources = [LoadedTensor((draw(count, columns) / columns**0.5).to(dtype)) for count in rows]
        bias_O = draw(sum(rows)).to(device, dtype) if example["has_bias"] else None
        kept = example.get("format", "auto")
        return ops.linear.pack(sources, bias_O, device=device, dtype=dtype, format=kept)

    def norm(size: int) -> torch.Tensor:
        return (1 + draw(size) / 4).to(device, dtype)

    has_head_norms = example["has_head_norms"]
    kv_width = num_kv_heads * head_width
    return DecoderLayer(
        attention_norm=norm(width),
        qkv=pack(width, num_heads * head_width, kv_width, kv_width),
        o=pack(num_heads * head_width, width),
        mlp_norm=norm(width),
        gate_up=pack(width, ffn_width, ffn_width),
        down=pack(ffn_width, width),
        rope_table_CR=make_rope_table(example["rotary"], 10_000.0, 512).to(device),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_width=head_width,
        scale=head_width**-0.5,
        eps=1e-5,
        q_norm=norm(head_width) if has_head_norms else None,
        k_norm=norm(head_width) if has_head_norms else None,
        window=example["window"],
    )


def _compare(
    ops: KernelTable, references: KernelTable, example: Mapping[str, Any]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(apply_decoder_layer(ops, example), apply_decoder_layer(references, example))]


DECODER_LAYER = Op(
    name="decoder_layer",
    compose=ComposedDecoderLayer,
    # The bounds of its parts, through two layers of them: outputs are near 3.
    tolerances={"float32": (1e-4, 1e-4), "bfloat16": (6e-2, 6e-2), "float16": (1e-2, 1e-2)},
    example_inputs=_example_inputs,
    scaled_inputs=_scaled_inputs,
    compare=_compare,
)
