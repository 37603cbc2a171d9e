"""What the config of a ModernBERT says: its shape, settings and tensors. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmplug import CheckpointError, ConfigReader, ModelShape, PoolingKind, RopeSettings, Weight

if TYPE_CHECKING:
    from collections.abc import Mapping

# The word in config.json -> the word of torch's gelu.
ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
# The word in config.json -> the word of ops.make_rope_table.
ROPE_TYPES = {"default": "default", "linear": "linear", "yarn": "yarn"}
FULL, SLIDING = "full_attention", "sliding_attention"
_POOLINGS: dict[Any, PoolingKind] = {"cls": "cls", "mean": "mean"}
# A kind of layer: the field that older files have for its base of angles, and the default.
_THETAS = {FULL: ("global_rope_theta", 160_000.0), SLIDING: ("local_rope_theta", 10_000.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The fields of config.json that change the result, checked."""

    is_classifier: bool
    vocab_size: int
    context_length: int
    width: int
    mlp_width: int
    num_heads: int
    layer_types: tuple[str, ...]  # FULL or SLIDING, one a layer
    window: int  # of sliding layers: how far a token sees on either side
    ropes: Mapping[str, RopeSettings]  # by kind of layer
    norm_eps: float
    activation: str
    classifier_activation: str
    classifier_pooling: PoolingKind
    has_norm_bias: bool
    has_attention_bias: bool
    has_mlp_bias: bool
    has_classifier_bias: bool

    @property
    def num_layers(self) -> int:
        """Layers."""
        return len(self.layer_types)

    @property
    def head_width(self) -> int:
        """Of each head."""
        return self.width // self.num_heads


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Read a config; CheckpointError names what is missing or not supported."""
    fields = ConfigReader(config)
    fields.refuse_unless("quantization_config", ())
    fields.refuse_unless("rope_scaling", ())
    width, num_heads = fields.integer("hidden_size", 768), fields.integer("num_attention_heads", 12)
    if width % num_heads:
        raise CheckpointError(f"config.json: a width of {width} has no {num_heads} heads")
    fields.refuse_unless("classifier_pooling", tuple(_POOLINGS))
    return Settings(
        is_classifier=config["architectures"][0].endswith("ForSequenceClassification"),
        vocab_size=fields.integer("vocab_size"),
        context_length=fields.integer("max_position_embeddings", 8192),
        width=width,
        mlp_width=fields.integer("intermediate_size", 1152),
        num_heads=num_heads,
        layer_types=_read_layer_types(fields),
        window=fields.integer("local_attention", 128) // 2,
        ropes={kind: _read_rope(config, kind) for kind in _THETAS},
        norm_eps=fields.number("norm_eps", 1e-5),
        activation=_read_activation(config, "hidden_activation"),
        classifier_activation=_read_activation(config, "classifier_activation"),
        classifier_pooling=_POOLINGS[config.get("classifier_pooling") or "cls"],
        has_norm_bias=fields.flag("norm_bias"),
        has_attention_bias=fields.flag("attention_bias"),
        has_mlp_bias=fields.flag("mlp_bias"),
        has_classifier_bias=fields.flag("classifier_bias"),
    )


def _read_layer_types(fields: ConfigReader) -> tuple[str, ...]:
    """Read which layers slide: listed one by one, or all but every n-th."""
    num_layers = fields.integer("num_hidden_layers", 22)
    types = fields.words("layer_types")
    if types is None:
        period = fields.integer("global_attn_every_n_layers", 3)
        return tuple(SLIDING if layer % period else FULL for layer in range(num_layers))
    if len(types) != num_layers or not set(types) <= {FULL, SLIDING}:
        raise CheckpointError(
            f"config.json: layer_types must say {FULL} or {SLIDING} for each of {num_layers} "
            f"layers, not {list(types)}"
        )
    return types


def _read_rope(config: Mapping[str, Any], kind: str) -> RopeSettings:
    """Read how one kind of layer rotates, from `rope_parameters` or from the older fields."""
    by_kind = config.get("rope_parameters") or {}
    if not isinstance(by_kind, dict) or not set(by_kind) <= set(_THETAS):
        raise CheckpointError(
            f"config.json: rope_parameters must be those of {' and '.join(_THETAS)}, not {by_kind}"
        )
    older, default = _THETAS[kind]
    given = {
        "rope_parameters": by_kind.get(kind),
        "rope_theta": config.get(older),
        "max_position_embeddings": config.get("max_position_embeddings"),
    }
    return ConfigReader(given).rope(ROPE_TYPES, default_theta=default)


def _read_activation(config: Mapping[str, Any], name: str) -> str:
    word = config.get(name, "gelu")
    if word not in ACTIVATIONS:
        raise CheckpointError(f"config.json: {name} {word!r} is not supported")
    return ACTIVATIONS[word]


def describe(config: Mapping[str, Any]) -> ModelShape:
    """Compute what the engine must know before a weight is read."""
    s = read_settings(config)
    return ModelShape(
        vocab_size=s.vocab_size,
        context_length=s.context_length,
        num_layers=s.num_layers,
        width=s.width,
        layers=(),  # nothing is cached
    )


def weight_table(config: Mapping[str, Any]) -> list[Weight]:
    """List every tensor of the checkpoint."""
    s = read_settings(config)
    prefix = "model." if s.is_classifier else ""
    layer = f"{prefix}layers.{{layer}}"

    def norm(name: str, source: str) -> list[Weight]:
        parts = ("weight", "bias") if s.has_norm_bias else ("weight",)
        return [
            Weight(name=f"{name}.{part}", sources=(f"{source}.{part}",), kind="tensor",
                   rows=(s.width,))
            for part in parts
        ]  # fmt: skip

    def linear(
        name: str, source: str, rows: int, columns: int, has_bias: bool, **split: Any
    ) -> Weight:
        return Weight(
            name=name,
            sources=(f"{source}.weight",),
            bias=(f"{source}.bias",) if has_bias else (),
            rows=(rows,),
            columns=columns,
            **split,
        )

    table = [
        Weight(
            name="words",
            sources=(f"{prefix}embeddings.tok_embeddings.weight",),
            kind="embedding",
            rows=(s.vocab_size,),
            columns=s.width,
            split="vocabulary",
        ),
        *norm("embed_norm", f"{prefix}embeddings.norm"),
        linear("layers.{layer}.qkv", f"{layer}.attn.Wqkv", 3 * s.width, s.width,
               s.has_attention_bias, split="outputs", split_parts=(s.width,) * 3,
               split_unit=s.head_width),
        linear("layers.{layer}.o", f"{layer}.attn.Wo", s.width, s.width, s.has_attention_bias,
               split="inputs", split_unit=s.head_width),
        *norm("layers.{layer}.mlp_norm", f"{layer}.mlp_norm"),
        linear("layers.{layer}.gate_up", f"{layer}.mlp.Wi", 2 * s.mlp_width, s.width,
               s.has_mlp_bias, split="outputs", split_parts=(s.mlp_width,) * 2),
        linear("layers.{layer}.down", f"{layer}.mlp.Wo", s.width, s.mlp_width, s.has_mlp_bias,
               split="inputs"),
        *norm("norm", f"{prefix}final_norm"),
    ]  # fmt: skip
    for i in range(1, s.num_layers):  # the first layer reads what the embedding's norm made
        table += norm(f"layers.{i}.attention_norm", f"{prefix}layers.{i}.attn_norm")
    if s.is_classifier:
        table += [
            linear("pooler", "head.dense", s.width, s.width, s.has_classifier_bias),
            *norm("pooler_norm", "head.norm"),
            Weight(name="head", sources=("classifier.weight",), bias=("classifier.bias",)),
        ]
    return table
