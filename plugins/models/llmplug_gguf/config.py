"""The fields of config.json, from a GGUF header."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf.constants import Keys

from llmplug import CheckpointError
from llmplug_gguf.architectures import (
    ARCHITECTURES,
    INTEGERS,
    NEUTRAL,
    READ_ELSEWHERE,
    WITHOUT_EFFECT,
    Architecture,
)
from llmplug_gguf.rope import read_rope
from llmplug_gguf.tokenizer import find_eos_ids, find_token_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmplug_gguf.header import Header

EMBEDDING = "token_embd.weight"
HEAD = "output.weight"


class ArchitectureFields:
    """The fields `<architecture>.*` of a header, typed; every error is a CheckpointError."""

    def __init__(self, header: Header, name: str) -> None:
        self._name = name
        self._fields = {
            key.removeprefix(f"{name}."): value
            for key, value in header.fields.items()
            if key.startswith(f"{name}.")
        }

    def __contains__(self, key: str) -> bool:
        return key in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def integer(self, key: str, default: int | None = None) -> int:
        """Read a whole number of 1 or more."""
        value = self.value(key, default)
        if isinstance(value, list) and value and len(set(value)) == 1:
            value = value[0]  # one number per layer, all the same
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(key, "a whole number of 1 or more, the same for all layers")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Read a finite number above 0."""
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number")
        if not (math.isfinite(value) and value > 0):
            raise self.wrong(key, "a number above 0")
        # Files keep float32: its shortest decimal is the number that the config had, 1e-05.
        return float(str(np.float32(value)))

    def value(self, key: str, default: Any = None) -> Any:
        """Read any value; without it and without a default the file is refused."""
        value = self._fields.get(key, default)
        if value is None:
            raise CheckpointError(f"the field {self._name}.{key} is missing")
        return value

    def wrong(self, key: str, wanted: str) -> CheckpointError:
        """Say that a value is not served."""
        shown = repr(self._fields.get(key))[:60]
        return CheckpointError(f"the field {self._name}.{key} is {shown}; supported is {wanted}")


def find_architecture(header: Header) -> Architecture:
    """Look up `general.architecture`; CheckpointError if it is not served."""
    name = header.fields.get(Keys.General.ARCHITECTURE)
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise CheckpointError(
            f"the GGUF architecture {name!r} is not supported; supported: "
            f"{', '.join(ARCHITECTURES)}"
        )
    kind = header.fields.get(Keys.General.TYPE, "model")
    if kind != "model":
        raise CheckpointError(f"the file holds no model but {kind!r} ({Keys.General.TYPE})")
    num_parts = header.fields.get(Keys.Split.LLM_KV_SPLIT_COUNT, 0)
    if num_parts > 1:
        raise CheckpointError(
            f"the file is one of {num_parts} parts of a model; join them first: "
            "llama-gguf-split --merge"
        )
    return ARCHITECTURES[name]


def make_config(header: Header, architecture: Architecture) -> dict[str, Any]:
    """Write config.json as transformers does for the same model."""
    fields = ArchitectureFields(header, header.fields[Keys.General.ARCHITECTURE])
    _refuse_unknown(fields)
    config: dict[str, Any] = {name: fields.integer(key) for key, name in INTEGERS.items()}
    num_heads = config["num_attention_heads"]
    if config["hidden_size"] % num_heads and "attention.key_length" not in fields:
        raise CheckpointError(f"{num_heads} heads do not divide a width of {config['hidden_size']}")
    head_dim = fields.integer("attention.key_length", config["hidden_size"] // num_heads)
    if fields.integer("attention.value_length", head_dim) != head_dim:
        raise fields.wrong("attention.value_length", f"{head_dim}, as wide as the keys")
    config |= {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "num_key_value_heads": fields.integer("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "vocab_size": _vocab_size(header),
        "tie_word_embeddings": HEAD not in header.tensors,
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in header.tensors,
        "rope_parameters": read_rope(
            header, fields, head_dim, can_be_partial=not architecture.has_permuted_heads
        ),
        **architecture.extra_config,
        **_window(fields, config["max_position_embeddings"], architecture),
    }
    eos_ids = find_eos_ids(header)
    if eos_ids:
        config["eos_token_id"] = eos_ids[0] if len(eos_ids) == 1 else eos_ids
    for name, key in (("bos_token_id", Keys.Tokenizer.BOS_ID), ("pad_token_id", _PAD)):
        token_id = find_token_id(header, key)
        if token_id is not None:
            config[name] = token_id
    return config


_PAD = Keys.Tokenizer.PAD_ID


def _refuse_unknown(fields: ArchitectureFields) -> None:
    for key in fields:
        if key in NEUTRAL:
            if fields.value(key) not in NEUTRAL[key]:
                raise fields.wrong(key, " or ".join(map(repr, NEUTRAL[key])))
        elif key not in INTEGERS and key not in READ_ELSEWHERE and key not in WITHOUT_EFFECT:
            raise fields.wrong(key, "a file without it, as it may change the result")


def _vocab_size(header: Header) -> int:
    """Count the rows of the embedding: the vocabulary may be shorter, the logits are not."""
    info = header.tensors.get(EMBEDDING)
    if info is None or len(info.shape) != 2:
        raise CheckpointError(f"the file has no tensor {EMBEDDING} with two dimensions")
    return info.shape[0]


def _window(
    fields: ArchitectureFields, context_length: int, architecture: Architecture
) -> dict[str, Any]:
    if "attention.sliding_window" not in fields:
        return {}
    window = fields.value("attention.sliding_window")
    if window == 0 or (isinstance(window, int) and window >= context_length):
        return {}
    if architecture.windowed_class_name is None:
        raise fields.wrong("attention.sliding_window", "0 for this architecture")
    return {
        "architectures": [architecture.windowed_class_name],
        "model_type": architecture.windowed_class_name.removesuffix("ForCausalLM").lower(),
        "sliding_window": fields.integer("attention.sliding_window"),
    }
