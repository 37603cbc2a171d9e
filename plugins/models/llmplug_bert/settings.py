"""What the config of a BERT says: its shape, its settings and its tensors. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmplug import CheckpointError, ConfigReader, ModelShape, Weight

if TYPE_CHECKING:
    from collections.abc import Mapping

# The word in config.json -> the word of torch's gelu, or relu.
ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "relu": "relu"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The fields of config.json that change the result, checked."""

    is_roberta: bool
    is_classifier: bool
    vocab_size: int
    num_positions: int  # rows of the table
    first_position: int  # of the first token, in that table
    num_types: int
    num_layers: int
    width: int
    mlp_width: int
    num_heads: int
    norm_eps: float
    activation: str

    @property
    def prefix(self) -> str:
        """What stands before the names of the encoder's tensors."""
        if not self.is_classifier:
            return ""
        return "roberta." if self.is_roberta else "bert."


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Read a config; CheckpointError names what is missing or not supported."""
    fields = ConfigReader(config)
    fields.refuse_unless("position_embedding_type", ("absolute",))
    fields.refuse_unless("is_decoder", (False,))
    fields.refuse_unless("add_cross_attention", (False,))
    fields.refuse_unless("quantization_config", ())
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise CheckpointError(f"config.json: hidden_act {activation!r} is not supported")
    architecture = config["architectures"][0]
    is_roberta = not architecture.startswith("Bert")
    width, num_heads = fields.integer("hidden_size", 768), fields.integer("num_attention_heads", 12)
    if width % num_heads:
        raise CheckpointError(f"config.json: a width of {width} has no {num_heads} heads")
    return Settings(
        is_roberta=is_roberta,
        is_classifier=architecture.endswith("ForSequenceClassification"),
        vocab_size=fields.integer("vocab_size"),
        num_positions=fields.integer("max_position_embeddings", 512),
        # RoBERTa counts positions from the one after the padding's.
        first_position=fields.integer("pad_token_id", 1, minimum=0) + 1 if is_roberta else 0,
        num_types=fields.integer("type_vocab_size", 2),
        num_layers=fields.integer("num_hidden_layers", 12),
        width=width,
        mlp_width=fields.integer("intermediate_size", 3072),
        num_heads=num_heads,
        norm_eps=fields.number("layer_norm_eps", 1e-12),
        activation=ACTIVATIONS[activation],
    )


def describe(config: Mapping[str, Any]) -> ModelShape:
    """Compute what the engine must know before a weight is read."""
    s = read_settings(config)
    return ModelShape(
        vocab_size=s.vocab_size,
        context_length=s.num_positions - s.first_position,
        num_layers=s.num_layers,
        width=s.width,
        layers=(),  # nothing is cached
    )


def weight_table(config: Mapping[str, Any]) -> list[Weight]:
    """List every tensor of the checkpoint."""
    s = read_settings(config)
    head_width = s.width // s.num_heads
    embeddings, layer = f"{s.prefix}embeddings", f"{s.prefix}encoder.layer.{{layer}}"

    def table(name: str, source: str, rows: int, **split: Any) -> Weight:
        return Weight(
            name=name,
            sources=(f"{embeddings}.{source}.weight",),
            kind="embedding",
            rows=(rows,),
            columns=s.width,
            **split,
        )

    def norm(name: str, source: str) -> list[Weight]:
        return [
            Weight(name=f"{name}.{part}", sources=(f"{source}.{part}",), kind="tensor",
                   rows=(s.width,))
            for part in ("weight", "bias")
        ]  # fmt: skip

    def linear(name: str, *sources: str, rows: int, columns: int, **split: Any) -> Weight:
        return Weight(
            name=f"layers.{{layer}}.{name}",
            sources=tuple(f"{layer}.{source}.weight" for source in sources),
            bias=tuple(f"{layer}.{source}.bias" for source in sources),
            rows=(rows,) * len(sources),
            columns=columns,
            **split,
        )

    return [
        table("words", "word_embeddings", s.vocab_size, split="vocabulary"),
        table("positions", "position_embeddings", s.num_positions),
        table("types", "token_type_embeddings", s.num_types),
        *norm("embed_norm", f"{embeddings}.LayerNorm"),
        linear(
            "qkv",
            *(f"attention.self.{part}" for part in ("query", "key", "value")),
            rows=s.width,
            columns=s.width,
            split="outputs",
            split_unit=head_width,
        ),
        linear(
            "o",
            "attention.output.dense",
            rows=s.width,
            columns=s.width,
            split="inputs",
            split_unit=head_width,
        ),
        *norm("layers.{layer}.attention_norm", f"{layer}.attention.output.LayerNorm"),
        linear("up", "intermediate.dense", rows=s.mlp_width, columns=s.width, split="outputs"),
        linear("down", "output.dense", rows=s.width, columns=s.mlp_width, split="inputs"),
        *norm("layers.{layer}.mlp_norm", f"{layer}.output.LayerNorm"),
        *(_head(s) if s.is_classifier else ()),
    ]


def _head(s: Settings) -> list[Weight]:
    """The pooler and the classifier behind it; the number of labels is the file's."""
    dense = "classifier.dense" if s.is_roberta else "bert.pooler.dense"
    out = "classifier.out_proj" if s.is_roberta else "classifier"
    return [
        Weight(
            name="pooler",
            sources=(f"{dense}.weight",),
            bias=(f"{dense}.bias",),
            rows=(s.width,),
            columns=s.width,
        ),
        Weight(name="head", sources=(f"{out}.weight",), bias=(f"{out}.bias",)),
    ]
