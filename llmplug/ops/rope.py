"""Rotary position embedding: the torch reference, and the table of its angles.

Legend: T packed tokens, N query heads, K key/value heads, H head width, R rotary width (even,
<= H), C context length.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from llmplug.errors import KernelInputError
from llmplug.ops.table import Op

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def rope(
    q_TNH: torch.Tensor,
    k_TKH: torch.Tensor,
    positions_T: torch.Tensor,
    table_CR: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate queries and keys by the angles of their positions.

    The first R of the H numbers of a head are two halves: number i of the first half and number i
    of the second are the two coordinates that are rotated. The other H - R pass through.

    Args:
        q_TNH: need not be contiguous; a kernel may not write to it.
        positions_T: int64, in [0, C).
        table_CR: float32, R/2 cosines, then R/2 sines, a row per position (`make_rope_table`).

    Returns:
        (q_TNH, k_TKH) in the dtypes they came in, computed in float32.

    Source: https://arxiv.org/abs/2104.09864, section 3.4.2, in the split-half order.
    """
    rows_T1R = table_CR.index_select(0, positions_T).unsqueeze(1)
    cos_T1r, sin_T1r = rows_T1R.chunk(2, dim=-1)
    return _rotate(q_TNH, cos_T1r, sin_T1r), _rotate(k_TKH, cos_T1r, sin_T1r)


def _rotate(x_TNH: torch.Tensor, cos_T1r: torch.Tensor, sin_T1r: torch.Tensor) -> torch.Tensor:
    half = cos_T1r.shape[-1]
    first_TNr = x_TNH[..., :half].float()
    second_TNr = x_TNH[..., half : 2 * half].float()
    rotated = (
        first_TNr * cos_T1r - second_TNr * sin_T1r,
        second_TNr * cos_T1r + first_TNr * sin_T1r,
    )
    return torch.cat((*(part.to(x_TNH.dtype) for part in rotated), x_TNH[..., 2 * half :]), dim=-1)


def make_rope_table(
    rotary_width: int,
    theta: float,
    context_length: int,
    scaling: Mapping[str, Any] | None = None,
) -> torch.Tensor:
    """Compute the cosines and sines of every position.

    Args:
        rotary_width: R, even; the head width unless a model rotates only a part.
        theta: base of the frequencies.
        context_length: C, rows of the table.
        scaling: settings under the names that config.json uses, and a `rope_type` that is one
            of default, linear, wavelength or yarn; None is default.

    Returns:
        table_CR, float32 on the CPU; the angles are computed in float64.

    Raises:
        KernelInputError: an odd width, an unknown type, or one whose numbers are missing.
    """
    if rotary_width <= 0 or rotary_width % 2:
        raise KernelInputError(f"rotary width must be even and positive, not {rotary_width}")
    scaling = scaling or {}
    rope_type = scaling.get("rope_type", "default")
    if rope_type not in _SCALINGS:
        known = ", ".join(sorted(_SCALINGS))
        raise KernelInputError(f"rope type {rope_type!r} is not supported; known types: {known}")
    exponents = torch.arange(0, rotary_width, 2, dtype=torch.float64) / rotary_width
    frequencies_r = theta**-exponents
    try:
        frequencies_r, magnitude = _SCALINGS[rope_type](
            frequencies_r, theta, context_length, scaling
        )
    except KeyError as missing:
        raise KernelInputError(f"rope type {rope_type!r} needs {missing} in its settings") from None
    angles_Cr = torch.outer(torch.arange(context_length, dtype=torch.float64), frequencies_r)
    return (torch.cat((angles_Cr.cos(), angles_Cr.sin()), dim=-1) * magnitude).float()


# Each takes (frequencies, theta, context length, settings) and returns the scaled frequencies and
# the factor that multiplies cosines and sines.
_Scaled = tuple[torch.Tensor, float]


def _default(
    frequencies_r: torch.Tensor, theta: float, context_length: int, scaling: Mapping[str, Any]
) -> _Scaled:
    return frequencies_r, 1.0


def _linear(
    frequencies_r: torch.Tensor, theta: float, context_length: int, scaling: Mapping[str, Any]
) -> _Scaled:
    """Stretch all positions alike. Source: https://arxiv.org/abs/2306.15595."""
    return frequencies_r / scaling["factor"], 1.0


def _wavelength(
    frequencies_r: torch.Tensor, theta: float, context_length: int, scaling: Mapping[str, Any]
) -> _Scaled:
    """Keep short waves, stretch long ones, blend between.

    A wave is short that turns more than `high_freq_factor` times within the original context, and
    long that turns less than `low_freq_factor` times.
    """
    factor, low, high = (
        float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    turns_r = frequencies_r * scaling["original_max_position_embeddings"] / (2 * math.pi)
    keep_r = ((turns_r - low) / (high - low)).clamp(0, 1)
    return frequencies_r * keep_r + frequencies_r / factor * (1 - keep_r), 1.0


def _yarn(
    frequencies_r: torch.Tensor, theta: float, context_length: int, scaling: Mapping[str, Any]
) -> _Scaled:
    """Blend along the index of the frequency, and scale the logits.

    Source: https://arxiv.org/abs/2309.00071, sections 3.2 to 3.4.
    """
    original = float(scaling["original_max_position_embeddings"])
    factor = float(scaling["factor"])
    width = 2 * len(frequencies_r)

    def index_with_turns(turns: float) -> float:
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first = index_with_turns(float(scaling.get("beta_fast") or 32))
    last = index_with_turns(float(scaling.get("beta_slow") or 1))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    span = max(last - first, 1e-3)
    index_r = torch.arange(len(frequencies_r), dtype=torch.float64)
    stretch_r = ((index_r - first) / span).clamp(0, 1)
    scaled_r = frequencies_r / factor * stretch_r + frequencies_r * (1 - stretch_r)
    return scaled_r, _yarn_magnitude(scaling, factor)


def _yarn_magnitude(scaling: Mapping[str, Any], factor: float) -> float:
    """Return the factor on cosines and sines, whose square lands on the logits."""
    given = scaling.get("attention_factor")
    if given is not None:
        return float(given)

    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    mscale, mscale_all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if mscale and mscale_all_dim:
        return magnitude(mscale) / magnitude(mscale_all_dim)
    return magnitude(1.0)


_SCALINGS: Mapping[str, Callable[..., _Scaled]] = {
    "default": _default,
    "linear": _linear,
    "wavelength": _wavelength,
    "yarn": _yarn,
}


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    examples = []
    # tokens, query heads, key heads, head width, rotary width
    shapes = [(1, 1, 1, 2, 2), (5, 9, 3, 64, 64), (3, 4, 4, 10, 6), (19, 3, 1, 128, 64)]
    for num_tokens, heads, kv_heads, width, rotary in [*shapes, (0, 2, 1, 8, 8)]:
        q_TNH = torch.randn(num_tokens, heads, width, generator=generator)
        k_TKH = torch.randn(num_tokens, kv_heads, width, generator=generator)
        examples.append({
            "q_TNH": q_TNH.to(device, dtype),
            "k_TKH": k_TKH.to(device, dtype),
            "positions_T": torch.randint(300, (num_tokens,), generator=generator).to(device),
            "table_CR": make_rope_table(rotary, 10000.0, 300).to(device),
        })  # fmt: skip
    # Views into one joined tensor, as a model that projects q, k and v at once passes them.
    joined = torch.randn(4, 7, 64, generator=generator).to(device, dtype)
    examples.append({**examples[1], "q_TNH": joined[:, :4], "k_TKH": joined[:, 4:6],
                     "positions_T": examples[1]["positions_T"][:4]})  # fmt: skip
    return examples


ROPE = Op(
    name="rope",
    reference=rope,
    # float32: fused multiply-add saves one of three roundings. 16 bit: one rounding.
    tolerances={"float32": (1e-5, 1e-6), "bfloat16": (8e-3, 4e-3), "float16": (1e-3, 1e-3)},
    example_inputs=_example_inputs,
)
