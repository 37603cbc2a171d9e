"""One token a row, the likeliest or drawn: the torch reference.

Legend: S rows (sequences), V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from llmplug.ops.table import Op

_STEP = 0x9E3779B97F4A7C15 - 2**64  # 2^64 / golden ratio, odd, as int64 has it
_LARGEST_UNIFORM = 1 - 2.0**-24


def choose_tokens(
    logits_SV: torch.Tensor,
    temperature_S: torch.Tensor,
    seeds_S: torch.Tensor,
    positions_S: torch.Tensor,
) -> torch.Tensor:
    """Choose the highest of logit / temperature + noise, the lowest id of equal ones.

    The noise is Gumbel's, so that a token is chosen with its probability. It depends on seed,
    position and token id alone: a row draws the same alone and in any batch. A row with a NaN
    chooses it, and one in which all is forbidden (-inf) token 0: whoever samples looks.

    Args:
        logits_SV: float32.
        temperature_S: float32; 0: the highest logit.
        seeds_S: int64.
        positions_S: int64, of the tokens to be chosen.

    Returns:
        ids_S, int64.

    Source: SplitMix64, https://prng.di.unimi.it/splitmix64.c;
    https://arxiv.org/abs/1411.0030, section 2 (the Gumbel-max trick)
    """
    keys_S1 = _mix(_mix(seeds_S) + (positions_S + 1) * _STEP)[:, None]
    token_V = torch.arange(logits_SV.shape[1], device=logits_SV.device)
    # Of the upper 32 bits. Small ones decide, as they become the greatest noise: float32 has them
    # exactly enough, whereas numbers just below 1 are far apart.
    high_SV = _mix(keys_S1 + (token_V + 1) * _STEP) >> 32 & 0xFFFFFFFF
    uniform_SV = ((high_SV.float() + 0.5) * 2.0**-32).clamp(max=_LARGEST_UNIFORM)
    noise_SV = -torch.log(-torch.log1p(-uniform_SV))
    temperature_S1 = temperature_S[:, None]
    is_greedy_S1 = temperature_S1 == 0
    scaled_SV = logits_SV / torch.where(is_greedy_S1, 1.0, temperature_S1)
    scores_SV = torch.where(is_greedy_S1, logits_SV, scaled_SV + noise_SV)
    scores_SV.masked_fill_(scores_SV.isnan(), float("inf"))
    return scores_SV.argmax(1)


def _mix(z: torch.Tensor) -> torch.Tensor:
    """SplitMix64's output function; int64 wraps around as uint64 does."""
    z = (z ^ _shift_right(z, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    z = (z ^ _shift_right(z, 27)) * (0x94D049BB133111EB - 2**64)
    return z ^ _shift_right(z, 31)


def _shift_right(z: torch.Tensor, count: int) -> torch.Tensor:
    """Shift in zeros, not copies of the sign."""
    return z >> count & ((1 << (64 - count)) - 1)


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Logits are float32 whatever the model's dtype."""
    generator = torch.Generator().manual_seed(11)
    examples = []
    for num_rows, size in [(1, 1), (3, 5), (4, 1000), (2, 9000), (0, 10)]:
        logits_SV = torch.randn(num_rows, size, generator=generator) * 3
        temperature_S = torch.rand(num_rows, generator=generator) * 2
        temperature_S[::2] = 0.0
        seeds_S = torch.randint(-(2**63), 2**63 - 1, (num_rows,), generator=generator)
        examples.append({
            "logits_SV": logits_SV.to(device),
            "temperature_S": temperature_S.to(device),
            "seeds_S": seeds_S.to(device),
            "positions_S": torch.randint(0, 2**31, (num_rows,), generator=generator).to(device),
        })  # fmt: skip
    return examples


CHOOSE_TOKENS = Op(
    name="choose_tokens",
    reference=choose_tokens,
    # Ids are the same or not; no two scores of the examples are within rounding.
    tolerances={"float32": (0, 0), "bfloat16": (0, 0), "float16": (0, 0)},
    example_inputs=_example_inputs,
)
