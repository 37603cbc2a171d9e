"""Tiny random checkpoints of every architecture, made with transformers, and their reference.

`make_checkpoint("llama", folder)` writes a complete model folder: config.json, model.safetensors,
generation_config.json, tokenizer.json, tokenizer_config.json with a chat template. Weights are
random but fixed by a seed, large enough that greedy decoding does not sit on ties.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmplug import Checkpoint, TokenizerFiles
from llmplug.ops import LoadedTensor

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NUM_TOKENS = 256 + len(SPECIAL_TOKENS)
EOS_ID = 256 + SPECIAL_TOKENS.index("<|im_end|>")

# Odd on purpose: the head is wider than the tokenizer, groups of three query heads, a feed-forward
# width that no vector register divides.
_SHAPE = {
    "vocab_size": 263,
    "hidden_size": 48,
    "intermediate_size": 75,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 256,
    "eos_token_id": EOS_ID,
    "initializer_range": 0.2,
}
_ROPE_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_ROPE_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LAYER_TYPES = ["sliding_attention", "full_attention"]

# name -> (model type of transformers, what differs from _SHAPE)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 6}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": ("llama", {"head_dim": 22, "num_key_value_heads": 1}),
    "llama-rope-llama3": ("llama", {"rope_parameters": _ROPE_LLAMA3}),
    "llama-rope-linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "llama-rope-yarn": ("llama", {"rope_parameters": _ROPE_YARN}),
    "mistral": ("mistral", {"sliding_window": None, "head_dim": 16}),
    "mistral-window": ("mistral", {"sliding_window": 7}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen2-layer-types": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 9, "layer_types": _LAYER_TYPES},
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3-biases": ("qwen3", {"head_dim": 8, "attention_bias": True}),
    "qwen3-window": (
        "qwen3",
        {
            "head_dim": 24,
            "use_sliding_window": True,
            "sliding_window": 6,
            "max_window_layers": 1,
            "rope_parameters": _ROPE_YARN,
        },
    ),
}


def make_checkpoint(variant: str, folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a model folder of a variant, with config fields changed; return the folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, fields = VARIANTS[variant]
    config = AutoConfig.for_model(model_type, **{**_SHAPE, **fields, **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):  # all ones would hide a norm that is not applied
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif name.endswith("bias"):  # zeros would hide a bias that is not read
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.generation_config.eos_token_id = EOS_ID
    model.save_pretrained(folder, safe_serialization=True)
    make_tokenizer(folder)
    return folder


def make_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer: ids 0 to 255 are bytes, then the special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL_TOKENS])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": _SHAPE["max_position_embeddings"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def load_reference(folder: Path) -> Any:
    """Load a folder with transformers, float32, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def load_reference_of(checkpoint: Checkpoint) -> Any:
    """Load the tensors of any checkpoint, dequantised, into transformers' model of its config."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**checkpoint.config)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    state = {name: tensor.load().float() for name, tensor in checkpoint.tensors.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = ["lm_head.weight"] if config.tie_word_embeddings else []
    assert (missing, unexpected) == (tied, [])
    model.tie_weights()
    return model


@torch.inference_mode()
def reference_logits(model: Any, token_ids: list[int]) -> torch.Tensor:
    """Return transformers' logits_TV for one sequence."""
    logits: torch.Tensor = model(torch.tensor([token_ids])).logits[0]
    return logits


@dataclass(frozen=True)
class FolderCheckpoint:
    """A checkpoint in memory, so that tests of models need no loader plugin."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, LoadedTensor]
    generation_config: Mapping[str, Any] | None = None
    files: tuple[Path, ...] = ()

    @property
    def tokenizer(self) -> TokenizerFiles:
        return TokenizerFiles(json=(self.path / "tokenizer.json").read_text())


def open_checkpoint(folder: Path) -> FolderCheckpoint:
    """Read a folder of `make_checkpoint` whole."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    return FolderCheckpoint(
        path=folder,
        config=json.loads((folder / "config.json").read_text()),
        tensors={name: LoadedTensor(tensor) for name, tensor in tensors.items()},
    )
