"""What a Qwen3 config says: its shape, its settings and its tensors. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmplug import CheckpointError, ConfigReader, LayerCache, ModelShape, RopeSettings, Weight

if TYPE_CHECKING:
    from collections.abc import Mapping

# The word in config.json -> the word of ops.make_rope_table.
ROPE_TYPES = {"default": "default", "linear": "linear", "llama3": "wavelength", "yarn": "yarn"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The fields of config.json that change the result, checked."""

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
    windows: tuple[int | None, ...]  # of each layer: tokens a query sees, itself included
    has_attention_bias: bool
    is_classifier: bool
    is_head_tied: bool


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Read a config; CheckpointError names what is missing or not supported."""
    fields = ConfigReader(config)
    fields.refuse_unless("hidden_act", ("silu",))
    fields.refuse_unless("quantization_config", ())
    width, num_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    num_layers = fields.integer("num_hidden_layers")
    num_kv_heads = fields.integer("num_key_value_heads", 32)
    if num_heads % num_kv_heads:
        raise CheckpointError(
            f"config.json: {num_heads} attention heads cannot share {num_kv_heads} key/value heads"
        )
    return Settings(
        vocab_size=fields.integer("vocab_size"),
        context_length=fields.integer("max_position_embeddings", 32768),
        num_layers=num_layers,
        width=width,
        mlp_width=fields.integer("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_width=fields.integer("head_dim", 128),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=fields.rope(ROPE_TYPES, default_theta=10000.0),
        windows=_read_windows(fields, num_layers),
        has_attention_bias=fields.flag("attention_bias"),
        is_classifier=config["architectures"][0].endswith("ForSequenceClassification"),
        is_head_tied=fields.flag("tie_word_embeddings"),
    )


def _read_windows(fields: ConfigReader, num_layers: int) -> tuple[int | None, ...]:
    """Read which layers are windowed: listed one by one, or all from `max_window_layers` on."""
    if not fields.flag("use_sliding_window"):
        fields.refuse_unless("layer_types", (["full_attention"] * num_layers,))
        return (None,) * num_layers
    window = fields.integer("sliding_window", 4096)
    types = fields.words("layer_types")
    if types is None:
        first = fields.integer("max_window_layers", 28, minimum=0)
        return tuple(window if layer >= first else None for layer in range(num_layers))
    if len(types) != num_layers or not set(types) <= {"full_attention", "sliding_attention"}:
        raise CheckpointError(
            f"config.json: layer_types must say full_attention or sliding_attention for each of "
            f"{num_layers} layers, not {list(types)}"
        )
    return tuple(window if word == "sliding_attention" else None for word in types)


def describe(config: Mapping[str, Any]) -> ModelShape:
    """Compute what the engine must know before a weight is read."""
    s = read_settings(config)
    return ModelShape(
        vocab_size=s.vocab_size,
        context_length=s.context_length,
        num_layers=s.num_layers,
        width=s.width,
        layers=tuple(
            LayerCache(num_kv_heads=s.num_kv_heads, head_width=s.head_width, window=window)
            for window in s.windows
        ),
    )


def weight_table(config: Mapping[str, Any]) -> list[Weight]:
    """List every tensor of the checkpoint."""
    s = read_settings(config)
    q_rows, kv_rows = s.num_heads * s.head_width, s.num_kv_heads * s.head_width
    layer, embedding = "model.layers.{layer}", ("model.embed_tokens.weight",)

    def norm(name: str, source: str, width: int = s.width) -> Weight:
        return Weight(name=name, sources=(source,), kind="tensor", rows=(width,))

    def linear(
        name: str,
        sources: tuple[str, ...],
        rows: tuple[int, ...],
        columns: int,
        bias: bool = False,
        **split: Any,
    ) -> Weight:
        return Weight(
            name=f"layers.{{layer}}.{name}",
            sources=tuple(f"{layer}.{source}.weight" for source in sources),
            bias=tuple(f"{layer}.{source}.bias" for source in sources) if bias else (),
            rows=rows,
            columns=columns,
            **split,
        )

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
        linear(
            "qkv",
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            (q_rows, kv_rows, kv_rows),
            s.width,
            s.has_attention_bias,
            split="outputs",
            split_unit=s.head_width,
            repeats=(False, True, True),
        ),
        norm("layers.{layer}.q_norm", f"{layer}.self_attn.q_norm.weight", s.head_width),
        norm("layers.{layer}.k_norm", f"{layer}.self_attn.k_norm.weight", s.head_width),
        linear(
            "o",
            ("self_attn.o_proj",),
            (s.width,),
            q_rows,
            s.has_attention_bias,
            split="inputs",
            split_unit=s.head_width,
        ),
        norm("layers.{layer}.mlp_norm", f"{layer}.post_attention_layernorm.weight"),
        linear(
            "gate_up",
            ("mlp.gate_proj", "mlp.up_proj"),
            (s.mlp_width, s.mlp_width),
            s.width,
            split="outputs",
        ),
        linear("down", ("mlp.down_proj",), (s.width,), s.mlp_width, split="inputs"),
        norm("norm", "model.norm.weight"),
        _head(s, embedding),
    ]


def _head(s: Settings, embedding: tuple[str, ...]) -> Weight:
    """The head over the vocabulary, or over a classifier's labels; how many, the file says."""
    if s.is_classifier:
        return Weight(name="head", sources=("score.weight",))
    return Weight(
        name="head",
        sources=("lm_head.weight",),
        tied_to=embedding if s.is_head_tied else (),
        rows=(s.vocab_size,),
        columns=s.width,
        split="vocabulary",
    )
