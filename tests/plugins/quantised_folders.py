"""Model folders as quantising programs write them, and the same weights as plain floats.

Packed here number by number, as the formats are published:
GPTQ: https://github.com/AutoGPTQ/AutoGPTQ, auto_gptq/nn_modules/qlinear
AWQ: https://github.com/casper-hansen/AutoAWQ, awq/utils/packing_utils.py
fp8: https://github.com/vllm-project/compressed-tensors; blocks: https://arxiv.org/abs/2412.19437
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.ops.packed_weights import AWQ_SHIFTS, pack_columns

SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
GROUP = 32
Stored = tuple[dict[str, torch.Tensor], torch.Tensor]  # tensors by suffix, the weight they mean


def write_folders(
    folder: Path, quantise: Callable[[torch.Tensor], Stored], settings: dict[str, Any]
) -> tuple[Path, Path]:
    """Write a tiny Llama twice: (its linear weights quantised, the same numbers as floats)."""
    plain = tiny.make_checkpoint("llama", folder / "plain", **SHAPE)
    quantised = tiny.make_checkpoint("llama", folder / "quantised", **SHAPE)
    floats = load_file(plain / "model.safetensors")
    stored = {}
    for name, weight in list(floats.items()):
        if "_proj." not in name:
            stored[name] = weight
            continue
        parts, floats[name] = quantise(weight)
        module = name.removesuffix(".weight")
        stored |= {f"{module}.{part}": tensor.contiguous() for part, tensor in parts.items()}
    save_file(floats, plain / "model.safetensors", metadata={"format": "pt"})
    save_file(stored, quantised / "model.safetensors", metadata={"format": "pt"})
    set_settings(quantised, settings)
    return quantised, plain


def set_settings(folder: Path, settings: dict[str, Any] | None) -> None:
    """Write `quantization_config` into config.json; None: remove it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = settings
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def choose_numbers(
    weight_OI: torch.Tensor, bits: int, group_I: torch.Tensor, *, is_symmetric: bool
) -> tuple[torch.Tensor, ...]:
    """Round to the nearest: (codes (I, O), zeros (G, O), scales (G, O), what they mean (O, I))."""
    top = (1 << bits) - 1
    rows = []
    for group in range(int(group_I.max()) + 1):
        part = weight_OI[:, group_I == group]
        least, most = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
        if is_symmetric:
            most = torch.maximum(-least, most)
            least = -most
        scale = ((most - least) / top).half().float()
        zero = torch.full_like(scale, (top + 1) / 2) if is_symmetric else (-least / scale).round()
        rows.append((zero.clamp(1, top), scale))
    zeros_GO, scales_GO = (torch.stack(numbers) for numbers in zip(*rows, strict=True))
    zero_IO, scale_IO = zeros_GO[group_I], scales_GO[group_I]
    codes_IO = (weight_OI.T / scale_IO + zero_IO).round().clamp(0, top)
    return codes_IO.long(), zeros_GO.long(), scales_GO, ((codes_IO - zero_IO) * scale_IO).T


def make_gptq(
    bits: int,
    *,
    group_size: int = GROUP,
    is_symmetric: bool = False,
    is_act_order: bool = False,
    zero_shift: int = 1,
) -> Callable[[torch.Tensor], Stored]:
    def quantise(weight_OI: torch.Tensor) -> Stored:
        inputs = weight_OI.shape[1]
        group_I = torch.arange(inputs) // (inputs if group_size == -1 else group_size)
        if is_act_order:
            group_I = group_I[torch.randperm(inputs, generator=torch.Generator().manual_seed(1))]
        codes, zeros, scales, meant = choose_numbers(
            weight_OI, bits, group_I, is_symmetric=is_symmetric
        )
        places = tuple(range(0, 32, bits))
        return {
            "qweight": pack_columns(codes.T, places).T,
            "qzeros": pack_columns(zeros - zero_shift, places),
            "scales": scales.half(),
            "g_idx": group_I.int(),
        }, meant

    return quantise


def quantise_awq(weight_OI: torch.Tensor) -> Stored:
    group_I = torch.arange(weight_OI.shape[1]) // GROUP
    codes, zeros, scales, meant = choose_numbers(weight_OI, 4, group_I, is_symmetric=False)
    return {
        "qweight": pack_columns(codes, AWQ_SHIFTS),
        "qzeros": pack_columns(zeros, AWQ_SHIFTS),
        "scales": scales.half(),
    }, meant


def make_fp8(scale_name: str, num_scales: str, *, is_static: bool = False) -> Any:
    """Quantise to e4m3 with `one` scale, one an `output`, or one a `block`."""

    def quantise(weight_OI: torch.Tensor) -> Stored:
        largest_O1 = weight_OI.abs().amax(1, keepdim=True)
        # A tiny weight is one block of 128 x 128.
        scale = (largest_O1 if num_scales == "output" else largest_O1.max()) / 448
        code = (weight_OI / scale).to(torch.float8_e4m3fn)
        shape = {"one": (), "output": (-1, 1), "block": (1, 1)}[num_scales]
        parts = {"weight": code, scale_name: scale.reshape(shape)}
        if is_static:
            parts["input_scale"] = torch.tensor(0.01)
        return parts, code.float() * scale

    return quantise


def describe_gptq(bits: int, **changes: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": False,
            "sym": False, "damp_percent": 0.01, "true_sequential": True, **changes}  # fmt: skip


def describe_awq(**changes: Any) -> dict[str, Any]:
    return {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm",
            "zero_point": True, "modules_to_not_convert": None, **changes}  # fmt: skip


def describe_compressed(strategy: str, **changes: Any) -> dict[str, Any]:
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy,
               "dynamic": False, "observer": "minmax", "group_size": None}  # fmt: skip
    activations = {**weights, "strategy": "token", "dynamic": True}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations,
             "output_activations": None}  # fmt: skip
    return {"quant_method": "compressed-tensors", "format": "float-quantized",
            "ignore": ["lm_head"], "config_groups": {"group_0": group}, "kv_cache_scheme": None,
            "quantization_status": "compressed", **changes}  # fmt: skip


def describe_cache(**changes: Any) -> dict[str, Any]:
    """Weights with one scale, and caches with scales of their own, as llm-compressor writes it."""
    scheme = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False,
              "symmetric": True, "group_size": None, "block_structure": None, "actorder": None,
              "observer": "minmax", "observer_kwargs": {}, **changes}  # fmt: skip
    return describe_compressed("tensor", kv_cache_scheme=scheme)


FP8_BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
              "weight_block_size": [128, 128]}  # fmt: skip
FORMATS: dict[str, tuple[Callable[[torch.Tensor], Stored], dict[str, Any]]] = {
    "gptq": (make_gptq(4), describe_gptq(4)),
    "gptq, symmetric": (make_gptq(4, is_symmetric=True), describe_gptq(4, sym=True)),
    "gptq, act-order": (make_gptq(4, is_act_order=True), describe_gptq(4, desc_act=True)),
    "gptq, one group": (make_gptq(4, group_size=-1), describe_gptq(4, group_size=-1)),
    "gptq v2": (make_gptq(4, zero_shift=0), describe_gptq(4, checkpoint_format="gptq_v2")),
    "gptq, 8 bits": (make_gptq(8), describe_gptq(8)),
    "gptq, 8 bits, act-order": (make_gptq(8, is_act_order=True), describe_gptq(8, desc_act=True)),
    "awq": (quantise_awq, describe_awq()),
    "fp8, blocks": (make_fp8("weight_scale_inv", "block"), FP8_BLOCKS),
    "fp8, static": (
        make_fp8("weight_scale", "one", is_static=True),
        {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]},
    ),
    "compressed, outputs": (make_fp8("weight_scale", "output"), describe_compressed("channel")),
    "compressed, one scale": (make_fp8("weight_scale", "one"), describe_compressed("tensor")),
}
