"""What an architecture needs of the engine: read off a pass through a model without numbers.

Transformers has no description of a model that says how its layers cache; its code does. So it is
built on torch's meta device, where tensors have shapes and nothing else, and run once.
"""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

from llmplug import CheckpointError, LayerCache, ModelShape, Weight
from llmplug_transformers.paged_attention import NAME, Call, Trial, running

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRIED_TOKENS = 3


class _Outline(NamedTuple):
    config: Any  # transformers'
    calls: tuple[Call, ...]
    weights: tuple[Weight, ...]


def describe(config: Mapping[str, Any]) -> ModelShape:
    """Compute what the engine must know before a weight is read; imports torch, and more."""
    outline = _read(json.dumps(dict(config), sort_keys=True))
    layers = tuple(
        LayerCache(num_kv_heads=c.num_kv_heads, head_width=c.head_width, window=c.window)
        for c in outline.calls
    )
    text = outline.config.get_text_config()
    return ModelShape(
        vocab_size=text.vocab_size,
        context_length=_find_context_length(text, outline.calls),
        num_layers=text.num_hidden_layers,
        width=text.hidden_size,
        layers=layers,
    )


def weight_table(config: Mapping[str, Any]) -> tuple[Weight, ...]:
    """List the tensors that transformers would write for this config."""
    return _read(json.dumps(dict(config), sort_keys=True)).weights


def read_config(config: Mapping[str, Any]) -> Any:
    """Make transformers' config object, whose attention is ours."""
    if config.get("quantization_config"):
        raise CheckpointError(
            f"{_name(config)}: quantised weights are not read for architectures that have no "
            "plugin of their own"
        )
    fields = {key: value for key, value in config.items() if key != "model_type"}
    made = transformers.AutoConfig.for_model(config["model_type"], **fields)
    made._attn_implementation = NAME
    return made


def find_class(config: Mapping[str, Any]) -> Any:
    """Return transformers' class of the architecture."""
    return getattr(transformers, _name(config))


def find_layers(model: Any) -> tuple[str, Any]:
    """Return name and module of all below the head; it no longer looks for padding."""
    name = model.base_model_prefix if hasattr(model, model.base_model_prefix) else "model"
    layers = getattr(model, name)
    layers.warn_if_padding_and_no_attention_mask = lambda *_: None
    return name, layers


@lru_cache(maxsize=4)
def _read(config_json: str) -> _Outline:
    config = json.loads(config_json)
    made = read_config(config)
    trial = Trial()
    # In bfloat16: products of experts are refused in float32 where there are no numbers.
    with torch.device("meta"), torch.no_grad(), running(trial):
        try:
            model = find_class(config)._from_config(_without_stretch(made), dtype=torch.bfloat16)
            _, layers = find_layers(model.eval())
            if "position_ids" not in signature(layers.forward).parameters:
                raise CheckpointError("it takes no positions")
            ids_1T = torch.zeros(1, _TRIED_TOKENS, dtype=torch.int64)
            positions_1T = torch.arange(_TRIED_TOKENS)[None]
            layers(input_ids=ids_1T, position_ids=positions_1T, use_cache=False)
        except Exception as error:
            why = (
                error if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
            )
            raise _refuse(config, str(why)) from error
    if len(trial.calls) < made.get_text_config().num_hidden_layers:
        raise _refuse(config, "some layers keep a state of another kind than keys and values")
    return _Outline(made, tuple(trial.calls), tuple(_list_weights(model)))


def _without_stretch(config: Any) -> Any:
    """Copy a config with rotations that ask for no number of a sequence."""
    config = copy.deepcopy(config)
    for rope in _find_stretched(config.get_text_config()):
        rope["rope_type"] = "default"
    return config


def _find_stretched(text: Any) -> list[dict[str, Any]]:
    """Return the settings of rotations that change with the longest sequence of a batch."""
    rope = getattr(text, "rope_parameters", None) or {}
    by_kind = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    return [each for each in by_kind if each.get("rope_type") in ("dynamic", "longrope")]


def _list_weights(model: Any) -> list[Weight]:
    tied: dict[str, str] = model.all_tied_weights_keys
    stored = revert_weight_conversion(model, dict(model.state_dict()))
    return [
        Weight(
            name=name,
            sources=(name,),
            tied_to=(tied[name],) if name in tied else (),
            kind="tensor",
            rows=(tensor.shape[0],) if tensor.dim() in (1, 2) else (),
            columns=tensor.shape[1] if tensor.dim() == 2 else None,
        )
        for name, tensor in stored.items()
    ]


def _find_context_length(text: Any, calls: tuple[Call, ...]) -> int:
    """Return how far positions mean what they mean to transformers, whatever else is in a batch.

    Some ways to stretch rotations change all of them once one sequence is long; chunks and windows
    that attention is not told of are causal attention up to their own length.
    """
    limits = [getattr(text, "max_position_embeddings", None)]
    limits.append(getattr(text, "attention_chunk_size", None))
    kinds = getattr(text, "layer_types", None)
    if all(call.window is None for call in calls) and (not kinds or "sliding_attention" in kinds):
        limits.append(getattr(text, "sliding_window", None))
    limits += [rope.get("original_max_position_embeddings") for rope in _find_stretched(text)]
    known = [limit for limit in limits if limit]
    if not known:
        raise CheckpointError("config.json does not say how long a sequence may be")
    return int(min(known))


def _refuse(config: Mapping[str, Any], why: str) -> CheckpointError:
    return CheckpointError(
        f"{_name(config)}: no plugin offers it, and transformers' own code cannot be run on the "
        f"engine's pages: {why}"
    )


def _name(config: Mapping[str, Any]) -> str:
    return str(config["architectures"][0])
