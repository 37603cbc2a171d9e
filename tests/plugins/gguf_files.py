"""GGUF files for tests: written with the gguf package from checkpoints of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOKENS = ["<s>", "</s>", "<unk>", "a", "b"]


def to_gguf_name(name: str) -> str:
    """The name of a tensor of a Hugging Face checkpoint in GGUF."""
    stem, _, suffix = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        return f"blk.{layer}.{_NAMES[part]}.{suffix}"
    return f"{_NAMES[stem]}.{suffix}"


def permute(tensor: np.ndarray, num_heads: int) -> np.ndarray:
    """Order the rows of each head as llama.cpp wants them: the two halves interleaved."""
    half = tensor.shape[0] // num_heads // 2
    rows = tensor.reshape(num_heads, 2, half, *tensor.shape[1:])
    return rows.swapaxes(1, 2).reshape(tensor.shape)


def write_gguf(
    path: Path,
    architecture: str = "llama",
    fields: Mapping[str, Any] | None = None,
    tensors: Mapping[str, tuple[np.ndarray, Type]] | None = None,
    tokens: list[str] | None = None,
) -> Path:
    """Write a file; fields of the architecture go by their name after the dot.

    A tensor is (numbers or stored blocks, type): float arrays are quantised by the gguf package,
    uint8 arrays are written as they are.
    """
    writer = gguf.GGUFWriter(path, architecture)
    base = {"context_length": 64, "embedding_length": 8, "block_count": 1,
            "feed_forward_length": 16, "attention.head_count": 2,
            "attention.layer_norm_rms_epsilon": 1e-5}  # fmt: skip
    for key, value in {**base, **(fields or {})}.items():
        if value is not None:
            full = key if key.startswith(("tokenizer.", "general.")) else f"{architecture}.{key}"
            _add(writer, full, value)
    if tokens is not None:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
    if tensors is None:
        tensors = {"token_embd.weight": (np.zeros((5, 8), np.float32), Type.F32)}
    for name, (array, kind) in tensors.items():
        if array.dtype == np.uint8:
            writer.add_tensor(name, array, raw_dtype=kind)
        elif kind in {Type.F32, Type.F16}:
            writer.add_tensor(name, array.astype(np.float32 if kind == Type.F32 else np.float16))
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))


def convert(
    path: Path,
    architecture: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    fields: Mapping[str, Any] | None = None,
    kind: Type = Type.F32,
) -> Path:
    """Write the checkpoint of a tiny model as GGUF; `kind` is of matrices, vectors stay F32."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    converted = {}
    for name, tensor in tensors.items():
        array = tensor.float().numpy()
        part = name.split(".")[-2]
        if architecture == "llama" and part in heads:
            array = permute(array, heads[part])
        converted[to_gguf_name(name)] = (array, kind if array.ndim == 2 else Type.F32)
    rope = config["rope_parameters"]
    return write_gguf(
        path,
        architecture,
        {
            "context_length": config["max_position_embeddings"],
            "embedding_length": config["hidden_size"],
            "block_count": config["num_hidden_layers"],
            "feed_forward_length": config["intermediate_size"],
            "attention.head_count": config["num_attention_heads"],
            "attention.head_count_kv": config["num_key_value_heads"],
            "attention.key_length": config["head_dim"],
            "attention.value_length": config["head_dim"],
            "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
            "rope.freq_base": rope["rope_theta"],
            "rope.dimension_count": config["head_dim"],
            **(fields or {}),
        },
        converted,
    )
