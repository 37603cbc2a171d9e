"""How positions are rotated: from GGUF's fields to `rope_parameters`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf.constants import GGMLQuantizationType

from llmplug import CheckpointError

if TYPE_CHECKING:
    from llmplug_gguf.config import ArchitectureFields
    from llmplug_gguf.header import Header

FACTORS = "rope_freqs.weight"
# What the models with such factors were made with; only ratios show in the factors, so that the
# first of the three is free to choose.
_LOW_TURNS, _HIGH_TURNS, _ORIGINAL_CONTEXT = 1.0, 4.0, 8192
_FACTORS_MATCH = 1e-3  # relative; files keep float32, computed in float32


def read_rope(
    header: Header, fields: ArchitectureFields, head_dim: int, *, can_be_partial: bool
) -> dict[str, Any]:
    """Read `rope_parameters` as transformers writes them.

    Args:
        can_be_partial: whether a part of each head may stay unrotated.
    """
    theta = fields.number("rope.freq_base", 10000.0)
    parameters: dict[str, Any] = {"rope_theta": theta}
    width = fields.integer("rope.dimension_count", head_dim)
    if width != head_dim:
        if width > head_dim or not can_be_partial:
            raise fields.wrong("rope.dimension_count", f"{head_dim}, the width of a head")
        parameters["partial_rotary_factor"] = width / head_dim
    scaling = _read_scaling(fields)
    if FACTORS in header.tensors:
        if scaling["rope_type"] != "default":
            raise CheckpointError(f"the file scales positions twice: by fields and by {FACTORS}")
        scaling = _read_factors(header, theta, width)
    return {**parameters, **scaling}


def _read_scaling(fields: ArchitectureFields) -> dict[str, Any]:
    kind = fields.value("rope.scaling.type", "none")
    if fields.number("rope.scaling.attn_factor", 1.0) != 1.0:
        raise fields.wrong("rope.scaling.attn_factor", "1.0")
    if kind == "none":
        factor = fields.number("rope.scale_linear", 1.0)  # the key of old files
        kind = "none" if factor == 1.0 else "linear"
    else:
        factor = fields.number("rope.scaling.factor", 1.0)
    if kind == "none":
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise fields.wrong("rope.scaling.type", "none, linear or yarn")
    scaling: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": fields.integer("rope.scaling.original_context_length"),
    }
    for key, name in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
        if f"rope.scaling.{key}" in fields:
            scaling[name] = fields.number(f"rope.scaling.{key}")
    return scaling


def _read_factors(header: Header, theta: float, width: int) -> dict[str, Any]:
    """Turn a divisor per frequency back into the settings that it was computed from.

    A frequency that turns more than `high_freq_factor` times within the original context is kept
    (1), one that turns less than `low_freq_factor` times is divided by `factor`, and between the
    two 1/divisor grows linearly with the turns.
    """
    info = header.tensors[FACTORS]
    if info.type != GGMLQuantizationType.F32 or info.shape != (width // 2,):
        raise CheckpointError(f"{FACTORS} is {info.type.name} {info.shape}, not F32 {width // 2}")
    stored = np.frombuffer(header.data, "<f4", width // 2, info.offset).astype(np.float64)
    if not np.isfinite(stored).all() or stored.min() < 1 - _FACTORS_MATCH:
        raise CheckpointError(f"{FACTORS} holds numbers that are not 1 or more")
    factor = _rounded(float(stored.max()))
    if factor == 1.0:
        return {"rope_type": "default"}
    turns = theta ** -(np.arange(0, width, 2) / width) / (2 * math.pi)  # per token
    settings = _fit(stored, turns, factor)
    kept = (turns * settings["original_max_position_embeddings"] - settings["low_freq_factor"]) / (
        settings["high_freq_factor"] - settings["low_freq_factor"]
    )
    kept = kept.clip(0, 1)
    if not np.allclose(1 / (kept + (1 - kept) / factor), stored, rtol=_FACTORS_MATCH):
        raise CheckpointError(f"{FACTORS} follows no rule for scaling positions that is known here")
    return {"rope_type": "llama3", "factor": factor, **settings}


def _fit(
    stored: np.ndarray[Any, Any], turns: np.ndarray[Any, Any], factor: float
) -> dict[str, Any]:
    kept = (1 / stored - 1 / factor) / (1 - 1 / factor)
    blended = (kept > 1e-4) & (kept < 1 - 1e-4)
    low, high, original = _LOW_TURNS, _HIGH_TURNS, float(_ORIGINAL_CONTEXT)
    if np.count_nonzero(blended) >= 2:
        slope, offset = np.polyfit(turns[blended], kept[blended], 1)
        if slope > 0 > offset:
            high = low * (1 - 1 / float(offset))
            original = float(slope) * (high - low)
    return {
        "low_freq_factor": low,
        "high_freq_factor": _rounded(high),
        "original_max_position_embeddings": max(1, round(original)),
    }


def _rounded(value: float) -> float:
    """Take the whole number beside a value that float32 has blurred."""
    return float(round(value)) if abs(value - round(value)) < _FACTORS_MATCH * value else value
