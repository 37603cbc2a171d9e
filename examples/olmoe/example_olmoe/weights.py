"""What a config says: its shape, its settings and its tensors. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmplug import CheckpointError, ConfigReader, LayerCache, ModelShape, RopeSettings, Weight

if TYPE_CHECKING:
    from collections.abc import Mapping

# The word in config.json -> the word of ops.make_rope_table.
ROPE_TYPES = {"default": "default", "linear": "linear", "yarn": "yarn"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The fields of config.json that change the result."""

    vocab_size: int
    context_length: int
    num_layers: int
    width: int
    expert_width: int
    num_experts: int
    num_chosen: int  # experts of each token
    renormalises: bool
    num_heads: int
    num_kv_heads: int
    head_width: int
    norm_eps: float
    rope: RopeSettings
    has_attention_bias: bool
    is_head_tied: bool


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Read a config; a setting that would change the result and is not served is refused."""
    fields = ConfigReader(config)
    fields.refuse_unless("hidden_act", ("silu",))
    fields.refuse_unless("clip_qkv", ())
    fields.refuse_unless("quantization_config", ())
    width, num_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    num_kv_heads = fields.integer("num_key_value_heads", num_heads)
    num_experts, num_chosen = fields.integer("num_experts"), fields.integer("num_experts_per_tok")
    if width % num_heads or num_heads % num_kv_heads or num_chosen > num_experts:
        raise CheckpointError(
            f"config.json: {num_heads} heads do not divide {width}, {num_kv_heads} key/value heads "
            f"do not divide these, or {num_chosen} of {num_experts} experts cannot be chosen"
        )
    return Settings(
        vocab_size=fields.integer("vocab_size"),
        context_length=fields.integer("max_position_embeddings"),
        num_layers=fields.integer("num_hidden_layers"),
        width=width,
        expert_width=fields.integer("intermediate_size"),
        num_experts=num_experts,
        num_chosen=num_chosen,
        renormalises=fields.flag("norm_topk_prob"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_width=width // num_heads,
        norm_eps=fields.number("rms_norm_eps", 1e-5),
        rope=fields.rope(ROPE_TYPES, default_theta=10000.0),
        has_attention_bias=fields.flag("attention_bias"),
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
    """List every tensor of the checkpoint; what is read is checked against these shapes."""
    s = read_settings(config)
    embedding = ("model.embed_tokens.weight",)
    return [
        Weight(
            name="embed",
            sources=embedding,
            kind="embedding",
            rows=(s.vocab_size,),
            columns=s.width,
        ),
        *_list_attention(s),
        *_list_experts(s),
        _norm("norm", "model.norm", s.width),
        Weight(
            name="head",
            sources=("lm_head.weight",),
            tied_to=embedding if s.is_head_tied else (),
            rows=(s.vocab_size,),
            columns=s.width,
        ),
    ]


def _norm(name: str, source: str, width: int) -> Weight:
    return Weight(name=name, sources=(f"{source}.weight",), kind="tensor", rows=(width,))


def _list_attention(s: Settings) -> list[Weight]:
    layer, ours = "model.layers.{layer}", "layers.{layer}"
    q_rows, kv_rows = s.num_heads * s.head_width, s.num_kv_heads * s.head_width

    def linear(name: str, letters: str, rows: tuple[int, ...], columns: int) -> Weight:
        sources = [f"{layer}.self_attn.{letter}_proj" for letter in letters]
        return Weight(
            name=f"{ours}.{name}",
            sources=tuple(f"{source}.weight" for source in sources),
            bias=tuple(f"{source}.bias" for source in sources) if s.has_attention_bias else (),
            rows=rows,
            columns=columns,
        )

    return [
        _norm(f"{ours}.attention_norm", f"{layer}.input_layernorm", s.width),
        linear("qkv", "qkv", (q_rows, kv_rows, kv_rows), s.width),
        # Norms of all heads at once, not of each.
        _norm(f"{ours}.q_norm", f"{layer}.self_attn.q_norm", q_rows),
        _norm(f"{ours}.k_norm", f"{layer}.self_attn.k_norm", kv_rows),
        linear("o", "o", (s.width,), q_rows),
    ]


def _list_experts(s: Settings) -> list[Weight]:
    """The router, and the experts' matrices, which files hold one by one and we one behind another.

    They are plain tensors, not packed: `ops.expert_mlp` computes with them as they are.
    """
    layer, ours = "model.layers.{layer}", "layers.{layer}"
    experts = [f"{layer}.mlp.experts.{number}" for number in range(s.num_experts)]
    halves = [f"{expert}.{name}_proj.weight" for expert in experts for name in ("gate", "up")]
    return [
        _norm(f"{ours}.mlp_norm", f"{layer}.post_attention_layernorm", s.width),
        Weight(
            name=f"{ours}.router",
            sources=(f"{layer}.mlp.gate.weight",),
            kind="tensor",
            rows=(s.num_experts,),
            columns=s.width,
        ),
        Weight(
            name=f"{ours}.gate_up",
            sources=tuple(halves),
            kind="tensor",
            rows=(s.expert_width,) * len(halves),
            columns=s.width,
        ),
        Weight(
            name=f"{ours}.down",
            sources=tuple(f"{expert}.down_proj.weight" for expert in experts),
            kind="tensor",
            rows=(s.width,) * s.num_experts,
            columns=s.expert_width,
        ),
    ]
