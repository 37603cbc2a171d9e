"""The router of a mixture of experts: the torch reference.

Legend: T packed tokens, E experts, C experts that a token chooses.
"""

from __future__ import annotations

from typing import Any

import torch

from llmplug.ops.table import Op


def route_experts(
    scores_TE: torch.Tensor, *, num_chosen: int, renormalises: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the likeliest experts of each token, the lowest id of equal ones.

    Args:
        scores_TE: the router's logits.
        num_chosen: C, from 1 to E.
        renormalises: whether the weights of a token's experts sum to 1.

    Returns:
        (weights_TC float32, of the softmax over all experts; experts_TC int64), the likeliest
        first.

    Source: https://arxiv.org/abs/2401.04088, section 2.1
    """
    probs_TE = scores_TE.softmax(1, dtype=torch.float32)
    weights_TE, experts_TE = probs_TE.sort(dim=1, descending=True, stable=True)
    weights_TC, experts_TC = weights_TE[:, :num_chosen], experts_TE[:, :num_chosen]
    if renormalises:
        weights_TC = weights_TC / weights_TC.sum(1, keepdim=True)
    return weights_TC.contiguous(), experts_TC.contiguous()


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(15)
    examples = []
    shapes = [
        (1, 1, 1, True),
        (3, 8, 2, True),
        (5, 60, 4, False),
        (2, 128, 8, True),
        (0, 8, 2, True),
    ]
    for num_tokens, num_experts, num_chosen, renormalises in shapes:
        # Each a different number, in bfloat16 too: 16 bits may round two to one.
        order = [torch.randperm(num_experts, generator=generator) for _ in range(num_tokens)]
        scores_TE = torch.stack(order) / 16 if order else torch.zeros(0, num_experts)
        examples.append({
            "scores_TE": scores_TE.to(device, dtype), "num_chosen": num_chosen,
            "renormalises": renormalises,
        })  # fmt: skip
    # All equal: the lowest ids.
    equal = {"scores_TE": torch.zeros(2, 6).to(device, dtype)}
    return [*examples, {**equal, "num_chosen": 3, "renormalises": False}]


ROUTE_EXPERTS = Op(
    name="route_experts",
    reference=route_experts,
    # Computed in float32 whatever the dtype of the scores.
    tolerances={"float32": (1e-5, 1e-7), "bfloat16": (1e-5, 1e-7), "float16": (1e-5, 1e-7)},
    example_inputs=_example_inputs,
)
