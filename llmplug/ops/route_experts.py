"""The router of a mixture of experts: the torch reference.

Legend: T packed tokens, E experts, C experts that a token chooses, G groups of neighbouring
experts, e experts of a group.
"""

from __future__ import annotations

from typing import Any

import torch

from llmplug.ops.table import Op


def route_experts(
    scores_TE: torch.Tensor,
    *,
    num_chosen: int,
    renormalises: bool,
    is_sigmoid: bool = False,
    correction_E: torch.Tensor | None = None,
    num_groups: int = 1,
    num_chosen_groups: int = 1,
    factor: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the best experts of each token, the lowest id of equal ones.

    Args:
        scores_TE: the router's logits.
        num_chosen: C, from 1 to the experts of the chosen groups.
        renormalises: whether the weights of a token's experts sum to 1, before `factor`.
        is_sigmoid: whether each expert's weight is the sigmoid of its logit; else the softmax over
            all experts.
        correction_E: added to the weights for the choice alone, float32; None: nothing.
        num_groups: G, which divides E. With more than one a token chooses among the experts of
            its best groups; a group is worth the sum of its two best experts.
        num_chosen_groups: groups that a token chooses, from 1 to G; the first of equal ones.
        factor: multiplies the weights.

    Returns:
        (weights_TC float32; experts_TC int64), the best for the choice first.

    Source: https://arxiv.org/abs/2401.04088, section 2.1 (softmax);
    https://arxiv.org/abs/2412.19437, sections 2.1.2 and 4.2 (sigmoid, correction, groups)
    """
    wide_TE = scores_TE.float()
    weights_TE = wide_TE.sigmoid() if is_sigmoid else wide_TE.softmax(1)
    worth_TE = weights_TE if correction_E is None else weights_TE + correction_E.float()
    if num_groups > 1:
        worth_TE = _leave_out_groups(worth_TE, num_groups, num_chosen_groups)
    experts_TC = worth_TE.sort(dim=1, descending=True, stable=True).indices[:, :num_chosen]
    weights_TC = weights_TE.gather(1, experts_TC)
    if renormalises:
        weights_TC = weights_TC / weights_TC.sum(1, keepdim=True)
    return weights_TC * factor, experts_TC.contiguous()


def _leave_out_groups(worth_TE: torch.Tensor, num_groups: int, num_chosen: int) -> torch.Tensor:
    """Make experts worth nothing whose group is not among the best."""
    num_tokens, num_experts = worth_TE.shape
    worth_TGe = worth_TE.view(num_tokens, num_groups, num_experts // num_groups)
    worth_TG = worth_TGe.topk(min(2, worth_TGe.shape[2]), dim=2).values.sum(2)
    order_TG = worth_TG.sort(dim=1, descending=True, stable=True).indices
    is_out_TG = torch.ones_like(worth_TG, dtype=torch.bool)
    is_out_TG.scatter_(1, order_TG[:, :num_chosen], value=False)
    return worth_TGe.masked_fill(is_out_TG[..., None], float("-inf")).view(worth_TE.shape)


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(15)
    examples = []
    shapes: list[tuple[int, int, dict[str, Any]]] = [
        (1, 1, {"num_chosen": 1, "renormalises": True}),
        (3, 8, {"num_chosen": 2, "renormalises": True}),
        (5, 60, {"num_chosen": 4, "renormalises": False}),
        (2, 128, {"num_chosen": 8, "renormalises": True}),
        (0, 8, {"num_chosen": 2, "renormalises": True}),
        (4, 32, {"num_chosen": 3, "renormalises": True, "is_sigmoid": True, "factor": 2.5}),
        (3, 48, {"num_chosen": 5, "renormalises": True, "is_sigmoid": True, "num_groups": 6,
                 "num_chosen_groups": 2}),
        (3, 12, {"num_chosen": 4, "renormalises": False, "num_groups": 4, "num_chosen_groups": 3}),
    ]  # fmt: skip
    for num_tokens, num_experts, settings in shapes:
        # Each a different number, in bfloat16 too: 16 bits may round two to one.
        order = [torch.randperm(num_experts, generator=generator) for _ in range(num_tokens)]
        scores_TE = torch.stack(order) / 16 if order else torch.zeros(0, num_experts)
        examples.append({"scores_TE": scores_TE.to(device, dtype), **settings})
    # A correction that turns the order round and makes some worth less than nothing.
    correction_E = (0.3 - torch.arange(48) / 32).to(device)
    examples.append({**examples[6], "correction_E": correction_E})
    # All equal: the lowest ids, of the first groups.
    equal = {"scores_TE": torch.zeros(2, 6).to(device, dtype), "num_chosen": 3}
    examples.append({**equal, "renormalises": False})
    return [*examples, {**equal, "renormalises": True, "is_sigmoid": True, "num_groups": 3,
                        "num_chosen_groups": 2}]  # fmt: skip


ROUTE_EXPERTS = Op(
    name="route_experts",
    reference=route_experts,
    # Computed in float32 whatever the dtype of the scores.
    tolerances={"float32": (1e-5, 1e-7), "bfloat16": (1e-5, 1e-7), "float16": (1e-5, 1e-7)},
    example_inputs=_example_inputs,
)
