"""The feed-forward layers of a mixture of experts: the torch reference.

Legend: T packed tokens, D model width, E experts, F width of an expert's layer, C experts that a
token chose.
"""

from __future__ import annotations

from typing import Any

import torch

from llmplug.ops.silu_mul import silu_mul
from llmplug.ops.table import Op


def expert_mlp(
    x_TD: torch.Tensor,
    gate_up_E2FD: torch.Tensor,
    down_EDF: torch.Tensor,
    weights_TC: torch.Tensor,
    experts_TC: torch.Tensor,
) -> torch.Tensor:
    """Sum, over the experts of each token, weight * down(silu(gate(x)) * up(x)).

    Args:
        gate_up_E2FD: gate, then up, in the dtype of x_TD.
        weights_TC: float32.
        experts_TC: int64; an expert that does not exist adds nothing, as padding does.

    Returns:
        y_TD in the dtype of x_TD, summed in float32 in the order of the choices.

    Source: https://arxiv.org/abs/2401.04088, section 2.1
    """
    shape = (*experts_TC.shape, x_TD.shape[1])
    parts_TCD = torch.zeros(shape, device=x_TD.device, dtype=torch.float32)
    for expert in range(gate_up_E2FD.shape[0]):
        tokens, choices = (experts_TC == expert).nonzero(as_tuple=True)
        gated = silu_mul(x_TD[tokens] @ gate_up_E2FD[expert].T)
        out = (gated @ down_EDF[expert].T).float()
        parts_TCD[tokens, choices] = out * weights_TC[tokens, choices, None]
    return parts_TCD.sum(1).to(x_TD.dtype)


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(16)
    examples = []
    # tokens, D, E, F, C
    shapes = [
        (1, 8, 1, 4, 1),
        (5, 40, 4, 24, 2),
        (7, 32, 8, 16, 3),
        (90, 16, 2, 8, 2),
        (0, 8, 4, 4, 2),
    ]
    for num_tokens, width, num_experts, ffn_width, num_chosen in shapes:
        scores_TE = torch.rand(num_tokens, num_experts, generator=generator)
        experts_TC = scores_TE.argsort(dim=1)[:, :num_chosen].contiguous()
        if num_tokens == 7:
            experts_TC[2:4, 1] = torch.tensor([-1, num_experts])  # no expert
        gate_up_E2FD = torch.randn(num_experts, 2 * ffn_width, width, generator=generator)
        down_EDF = torch.randn(num_experts, width, ffn_width, generator=generator)
        examples.append({
            "x_TD": torch.randn(num_tokens, width, generator=generator).to(device, dtype),
            "gate_up_E2FD": (gate_up_E2FD / width**0.5).to(device, dtype),
            "down_EDF": (down_EDF / ffn_width**0.5).to(device, dtype),
            "weights_TC": torch.rand(num_tokens, num_chosen, generator=generator).to(device),
            "experts_TC": experts_TC.to(device),
        })  # fmt: skip
    return examples


EXPERT_MLP = Op(
    name="expert_mlp",
    reference=expert_mlp,
    # Two products in another order, what is between them rounded to the dtype; outputs near 1.
    tolerances={"float32": (1e-5, 1e-5), "bfloat16": (2e-2, 2e-2), "float16": (4e-3, 4e-3)},
    example_inputs=_example_inputs,
)
