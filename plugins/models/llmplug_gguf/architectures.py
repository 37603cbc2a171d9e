"""Tables: what GGUF calls things, per architecture, and what the Hugging Face checkpoint does.

A key of a file that stands in no table is refused, because it may change the result.

Source of GGUF's names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One value of `general.architecture`.

    Attributes:
        model_type: of config.json.
        class_name: the entry of `architectures`.
        windowed_class_name: the entry for files that set a sliding window; None: such files are
            refused.
        extra_config: fields of config.json that follow from the architecture.
        tensors: GGUF's name -> the checkpoint's, without `.weight` and `.bias`.
        layer_tensors: the same within `blk.N.` and `model.layers.N.`.
        has_permuted_heads: whether the rows of q and k are kept for rotation in pairs that stand
            side by side, not half a head apart.
    """

    model_type: str
    class_name: str
    windowed_class_name: str | None = None
    extra_config: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=lambda: _TENSORS)
    layer_tensors: Mapping[str, str] = field(default_factory=lambda: _LAYER_TENSORS)
    has_permuted_heads: bool = False


ARCHITECTURES: Mapping[str, Architecture] = {
    # Mistral's files say `llama` too. Without a window the two are the same.
    "llama": Architecture(
        model_type="llama",
        class_name="LlamaForCausalLM",
        windowed_class_name="MistralForCausalLM",
        extra_config={"hidden_act": "silu"},
        has_permuted_heads=True,
    ),
    "qwen2": Architecture(
        model_type="qwen2",
        class_name="Qwen2ForCausalLM",
        extra_config={"hidden_act": "silu", "use_sliding_window": False},
    ),
    "qwen3": Architecture(
        model_type="qwen3",
        class_name="Qwen3ForCausalLM",
        extra_config={"hidden_act": "silu", "use_sliding_window": False},
        layer_tensors={**_LAYER_TENSORS, **_HEAD_NORMS},
    ),
}

# Key after `<architecture>.` -> field of config.json.
INTEGERS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
# Keys that `config.py` and `rope.py` read one by one.
READ_ELSEWHERE = frozenset(
    {
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_rms_epsilon",
        "attention.sliding_window",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scale_linear",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "rope.scaling.attn_factor",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
    }
)
# Keys that change nothing, whatever their value: the embedding's own size decides about the
# vocabulary, and whether a rope was trained or only stretched does not matter to running it.
WITHOUT_EFFECT = frozenset({"vocab_size", "rope.scaling.finetuned", "tensor_data_layout"})
# Keys that are served only with these values.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "use_parallel_residual": (False,),
    "pooling_type": (0,),
}
# Tensors that follow from the config; old files carry them.
DERIVED_LAYER_TENSORS = frozenset({"attn_rot_embd"})
