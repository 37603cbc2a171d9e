"""What a config says: its shape, its settings and its tensors. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmplug import ConfigReader, LayerCache, ModelShape, RopeSettings, Weight

if TYPE_CHECKING:
    from collections.abc import Mapping

# The word in config.json -> the word of ops.make_rope_table.
ROPE_TYPES = {"default": "default", "linear": "linear"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The fields of config.json that change the result."""

    vocab_size: int
    context_length: int
    num_layers: int
    width: int
    mlp_width: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    norm_eps: float
    rope: RopeSettings
    is_head_tied: bool


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Read a config; a setting that would change the result and is not served is refused."""
    fields = ConfigReader(config)
    fields.refuse_unless("hidden_act", ("silu",))
    fields.refuse_unless("attention_bias", (True,))
    fields.refuse_unless("attention_out_bias", (False,))
    fields.refuse_unless("mlp_bias", (False,))
    fields.refuse_unless("quantization_config", ())
    return Settings(
        vocab_size=fields.integer("vocab_size"),
        context_length=fields.integer("max_position_embeddings"),
        num_layers=fields.integer("num_hidden_layers"),
        width=fields.integer("hidden_size"),
        mlp_width=fields.integer("intermediate_size"),
        num_heads=fields.integer("num_attention_heads"),
        num_kv_heads=fields.integer("num_key_value_heads"),
        head_width=fields.integer("head_dim"),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=fields.rope(ROPE_TYPES, default_theta=10000.0),
        is_head_tied=fields.flag("tie_word_embeddings"),
    )


def describe(config: Mapping[str, Any]) -> ModelShape:
    """Compute what the engine must know before a weight is read."""
    s = read_settings(config)
    layer = LayerCache(num_kv_heads=s.num_kv_heads, head_width=s.head_width)
    return ModelShape(
        vocab_size=s.vocab_size,
        context_length=s.context_length,
        num_layers=s.num_layers,
        width=s.width,
        layers=(layer,) * s.num_layers,
    )


def weight_table(config: Mapping[str, Any]) -> list[Weight]:
    """List every tensor of the checkpoint; what is read is checked against these shapes.

    `split` says how ranks that compute the model together divide each: heads and the feed-forward
    layer by outputs, what follows them by inputs, embedding and head by tokens.
    """
    s = read_settings(config)
    q_rows, kv_rows = s.num_heads * s.head_width, s.num_kv_heads * s.head_width
    layer, embedding = "model.layers.{layer}", ("model.embed_tokens.weight",)
    heads = [f"{layer}.self_attn.{name}_proj" for name in "qkv"]
    gates = (f"{layer}.mlp.gate_proj.weight", f"{layer}.mlp.up_proj.weight")

    def norm(name: str, source: str) -> Weight:
        return Weight(name=name, sources=(source,), kind="tensor", rows=(s.width,))

    return [
        Weight(
            name="embed",
            sources=embedding,
            kind="embedding",
            rows=(s.vocab_size,),
            columns=s.width,
            split="vocabulary",
        ),
        norm("layers.{layer}.attention_norm", f"{layer}.input_layernorm.weight"),
        Weight(
            name="layers.{layer}.qkv",
            sources=tuple(f"{head}.weight" for head in heads),
            bias=tuple(f"{head}.bias" for head in heads),
            rows=(q_rows, kv_rows, kv_rows),
            columns=s.width,
            split="outputs",
            split_unit=s.head_width,
            repeats=(False, True, True),
        ),
        Weight(
            name="layers.{layer}.o",
            sources=(f"{layer}.self_attn.o_proj.weight",),
            rows=(s.width,),
            columns=q_rows,
            split="inputs",
            split_unit=s.head_width,
        ),
        norm("layers.{layer}.mlp_norm", f"{layer}.post_attention_layernorm.weight"),
        Weight(
            name="layers.{layer}.gate_up",
            sources=gates,
            rows=(s.mlp_width, s.mlp_width),
            columns=s.width,
            split="outputs",
        ),
        Weight(
            name="layers.{layer}.down",
            sources=(f"{layer}.mlp.down_proj.weight",),
            rows=(s.width,),
            columns=s.mlp_width,
            split="inputs",
        ),
        norm("norm", "model.norm.weight"),
        Weight(
            name="head",
            sources=("lm_head.weight",),
            tied_to=embedding if s.is_head_tied else (),
            rows=(s.vocab_size,),
            columns=s.width,
            split="vocabulary",
        ),
    ]
