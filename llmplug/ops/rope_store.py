"""Norms of heads, rotation and the cache's new tokens in one op, composed unless a kernel fuses it.

Legend: T packed tokens, N query heads, K key/value heads, H head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from llmplug.ops.attacker_rows import make_extreme
from llmplug.ops.rope import make_rope_table
from llmplug.ops.table import Op

if TYPE_CHECKING:
    from llmplug.ops.attention import KVCache
    from llmplug.ops.decoder_layer import DecoderLayer
    from llmplug.ops.table import KernelTable


class ComposedRopeStore:
    """The op `rope_store` in terms of the table's other ops."""

    def __init__(self, ops: KernelTable) -> None:
        self._ops = ops

    def __call__(
        self,
        qkv_TNH: torch.Tensor,
        layer: DecoderLayer,
        positions_T: torch.Tensor,
        cache: KVCache,
        slots_T: torch.Tensor,
    ) -> torch.Tensor:
        """Norm and rotate queries and keys, and store keys and values.

        Each step is rounded to the dtype of the heads, as the single ops do.

        Args:
            qkv_TNH: queries, keys and values of a layer: N + 2 K heads.
            layer: its heads, norms and rope table; nothing else is read.
            positions_T: int64, of each token in its sequence.
            cache: the slots are filled.
            slots_T: int64: page * P + offset in the page; -1: nothing is stored.

        Returns:
            q_TNH, rotated.
        """
        ops = self._ops
        heads = [layer.num_heads, layer.num_kv_heads, layer.num_kv_heads]
        q_TNH: torch.Tensor
        q_TNH, k_TKH, v_TKH = torch.split(qkv_TNH, heads, dim=1)
        if layer.q_norm is not None:
            q_TNH = ops.rms_norm(q_TNH, layer.q_norm, eps=layer.eps)
        if layer.k_norm is not None:
            k_TKH = ops.rms_norm(k_TKH, layer.k_norm, eps=layer.eps)
        q_TNH, k_TKH = ops.rope(q_TNH, k_TKH, positions_T, layer.rope_table_CR)
        ops.attention.store(cache, k_TKH, v_TKH, slots_T)
        return q_TNH


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    # tokens; N, K, H; rotary width; norms of queries and keys; dtype of the cache
    steps: list[tuple[int, tuple[int, int, int], int, tuple[bool, bool], torch.dtype]] = [
        (1, (1, 1, 2), 2, (False, False), dtype),
        (5, (9, 3, 64), 64, (True, True), dtype),
        (3, (4, 2, 10), 6, (True, False), torch.float16),
        (4, (2, 1, 128), 64, (False, True), dtype),
        (6, (3, 3, 20), 20, (True, True), torch.bfloat16),
        (0, (2, 1, 8), 8, (True, True), dtype),
    ]
    return [
        {"num_tokens": num_tokens, "heads": heads, "rotary": rotary, "has_norms": has_norms,
         "cache_dtype": cache_dtype, "device": device, "dtype": dtype}
        for num_tokens, heads, rotary, has_norms, cache_dtype in steps
    ]  # fmt: skip


def _scaled_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    return [
        {"num_tokens": num_tokens, "heads": heads, "rotary": rotary, "has_norms": has_norms,
         "cache_dtype": torch.float8_e4m3fn, "scales": scales, "device": device, "dtype": dtype}
        for num_tokens, heads, rotary, has_norms, scales in (
            (5, (4, 2, 16), 16, (False, False), (0.01, 0.3)),
            (4, (3, 1, 20), 12, (True, True), (0.25, 1e-3)),
        )
    ]  # fmt: skip


def apply_rope_store(
    ops: KernelTable, example: Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run the example: (q_TNH, keys and values of the whole cache as they mean, in float32).

    `example["factor"]` multiplies all tokens but the first, if it is there; the numbers of the
    token `example["attacker"]` are extreme.
    """
    from llmplug.ops.decoder_layer import DecoderLayer

    generator = torch.Generator().manual_seed(8)
    device, dtype = example["device"], example["dtype"]
    num_tokens, (num_heads, num_kv_heads, width) = example["num_tokens"], example["heads"]
    page_size, num_pages = 4, 5
    all_heads = num_heads + 2 * num_kv_heads
    qkv_TNH = torch.randn(num_tokens, all_heads, width, generator=generator)
    qkv_TNH[1:] *= example.get("factor", 1.0)
    if "attacker" in example:
        qkv_TNH[example["attacker"]] = make_extreme(qkv_TNH[example["attacker"]])
    q_norm, k_norm = (1 + torch.randn(2, width, generator=generator) / 4).to(device, dtype)
    layer = DecoderLayer(
        attention_norm=q_norm, qkv=None, o=None, mlp_norm=q_norm, gate_up=None, down=None,
        rope_table_CR=make_rope_table(example["rotary"], 10_000.0, 100).to(device),
        num_heads=num_heads, num_kv_heads=num_kv_heads, head_width=width, scale=1.0, eps=1e-5,
        q_norm=q_norm if example["has_norms"][0] else None,
        k_norm=k_norm if example["has_norms"][1] else None,
    )  # fmt: skip
    positions_T = torch.randint(100, (num_tokens,), generator=generator).to(device)
    slots_T = torch.randperm(page_size * num_pages, generator=generator)[:num_tokens].to(device)
    slots_T[3:4] = -1
    cache = ops.attention.allocate(
        num_pages, page_size, num_kv_heads, width, device=device, dtype=example["cache_dtype"]
    )
    key_scale, value_scale = example.get("scales", (1.0, 1.0))
    cache = replace(cache, key_scale=key_scale, value_scale=value_scale)
    q_TNH = ops.rope_store(qkv_TNH.to(device, dtype), layer, positions_T, cache, slots_T)
    return q_TNH, cache.key.float() * key_scale, cache.value.float() * value_scale


def _compare(
    ops: KernelTable, references: KernelTable, example: Mapping[str, Any]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    sides = (apply_rope_store(ops, example), apply_rope_store(references, example))
    return list(zip(*sides, strict=True))


ROPE_STORE = Op(
    name="rope_store",
    compose=ComposedRopeStore,
    # Three roundings in a row may each fall to the next number; a bfloat16 cache rounds float32.
    tolerances={"float32": (8e-3, 1e-5), "bfloat16": (1.6e-2, 1e-2), "float16": (8e-3, 2e-3)},
    example_inputs=_example_inputs,
    scaled_inputs=_scaled_inputs,
    compare=_compare,
)
