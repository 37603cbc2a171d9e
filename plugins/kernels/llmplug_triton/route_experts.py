"""The op `route_experts`: weights of experts and the best of them, a program a token.

Legend: T packed tokens, E experts, C experts that a token chooses, G groups of neighbouring
experts, e experts of a group.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError
from llmplug_triton.tensors import DTYPES, round_up_to_power, with_dense_rows


@triton.jit
def _find_best_groups(
    worth_E: tl.tensor,
    expert_E: tl.tensor,
    NUM_GROUPS: tl.constexpr,
    NUM_CHOSEN: tl.constexpr,
    GROUP: tl.constexpr,  # experts
    BLOCK_E: tl.constexpr,
    BLOCK_G: tl.constexpr,
) -> tl.tensor:
    """Return which experts are of the best groups; a group is worth its two best experts."""
    group_E = expert_E // GROUP
    group_G = tl.arange(0, BLOCK_G)
    group_worth_G = tl.full((BLOCK_G,), float("-inf"), tl.float32)
    for group in range(NUM_GROUPS):
        member_E = tl.where(group_E == group, worth_E, float("-inf"))
        worth = tl.max(member_E, 0)
        if GROUP > 1:
            best = tl.min(tl.where(member_E == worth, expert_E, BLOCK_E), 0)
            worth += tl.max(tl.where(expert_E == best, float("-inf"), member_E), 0)
        group_worth_G = tl.where(group_G == group, worth, group_worth_G)
    is_in_E = expert_E < 0
    is_free_G = group_G < NUM_GROUPS
    for _ in range(NUM_CHOSEN):
        highest = tl.max(tl.where(is_free_G, group_worth_G, float("-inf")), 0)
        is_best_G = is_free_G & (group_worth_G == highest)
        chosen = tl.min(tl.where(is_best_G, group_G, BLOCK_G), 0)
        is_free_G &= group_G != chosen
        is_in_E |= group_E == chosen
    return is_in_E


@triton.jit
def _route_kernel(
    scores: tl.tensor,
    correction: tl.tensor,  # read only if HAS_CORRECTION
    weights: tl.tensor,
    experts: tl.tensor,
    stride: tl.tensor,
    factor: tl.tensor,
    NUM_EXPERTS: tl.constexpr,
    NUM_CHOSEN: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    NUM_CHOSEN_GROUPS: tl.constexpr,
    RENORMALISES: tl.constexpr,
    IS_SIGMOID: tl.constexpr,
    HAS_CORRECTION: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_G: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)  # the grid ends with the tokens
    expert_E = tl.arange(0, BLOCK_E)
    is_there_E = expert_E < NUM_EXPERTS
    score_E = tl.load(scores + token * stride + expert_E, mask=is_there_E, other=float("-inf"))
    score_E = score_E.to(tl.float32)
    if IS_SIGMOID:
        weight_E = 1.0 / (1.0 + tl.exp(-score_E))
    else:
        weight_E = tl.exp(score_E - tl.max(score_E, 0))
        weight_E = weight_E / tl.sum(weight_E, 0)
    worth_E = weight_E
    if HAS_CORRECTION:
        worth_E += tl.load(correction + expert_E, mask=is_there_E, other=0.0).to(tl.float32)
    # NaN: any expert, but one that exists.
    worth_E = tl.where(worth_E == worth_E, worth_E, -3e38)  # noqa: PLR0124 - only a NaN is not
    is_free_E = is_there_E
    if NUM_GROUPS > 1:
        is_free_E &= _find_best_groups(
            worth_E, expert_E, NUM_GROUPS, NUM_CHOSEN_GROUPS, NUM_EXPERTS // NUM_GROUPS,
            BLOCK_E, BLOCK_G,
        )  # fmt: skip
    choice_C = tl.arange(0, BLOCK_C)
    weight_C = tl.zeros((BLOCK_C,), tl.float32)
    chosen_C = tl.zeros((BLOCK_C,), tl.int64)
    for choice in range(NUM_CHOSEN):
        highest = tl.max(tl.where(is_free_E, worth_E, float("-inf")), 0)
        is_best_E = is_free_E & (worth_E == highest)
        chosen = tl.min(tl.where(is_best_E, expert_E, BLOCK_E), 0)
        weight = tl.sum(tl.where(expert_E == chosen, weight_E, 0.0), 0)
        weight_C = tl.where(choice_C == choice, weight, weight_C)
        chosen_C = tl.where(choice_C == choice, chosen, chosen_C)
        is_free_E &= expert_E != chosen
    if RENORMALISES:
        weight_C = weight_C / tl.sum(weight_C, 0)
    is_chosen_C = choice_C < NUM_CHOSEN
    tl.store(weights + token * NUM_CHOSEN + choice_C, weight_C * factor, mask=is_chosen_C)
    tl.store(experts + token * NUM_CHOSEN + choice_C, chosen_C, mask=is_chosen_C)


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
    """Choose the best experts of each token; twin of `llmplug.ops.route_experts`.

    Raises:
        KernelInputError: scores are no matrix of float32, bfloat16 or float16, groups do not divide
            the experts, more are chosen than there are, or the correction has another width.
    """
    _check(scores_TE, correction_E, num_chosen, num_groups, num_chosen_groups)
    scores_TE = with_dense_rows(scores_TE)
    num_tokens, num_experts = scores_TE.shape
    shape, device = (num_tokens, num_chosen), scores_TE.device
    weights_TC = torch.empty(shape, device=device, dtype=torch.float32)
    experts_TC = torch.empty(shape, device=device, dtype=torch.int64)
    if num_tokens > 0:
        _route_kernel[(num_tokens,)](
            scores_TE, scores_TE if correction_E is None else correction_E.contiguous(),
            weights_TC, experts_TC, scores_TE.stride(0), float(factor), NUM_EXPERTS=num_experts,
            NUM_CHOSEN=num_chosen, NUM_GROUPS=num_groups, NUM_CHOSEN_GROUPS=num_chosen_groups,
            RENORMALISES=renormalises, IS_SIGMOID=is_sigmoid,
            HAS_CORRECTION=correction_E is not None, BLOCK_E=round_up_to_power(num_experts),
            BLOCK_C=round_up_to_power(num_chosen), BLOCK_G=round_up_to_power(num_groups),
            num_warps=1,
        )  # fmt: skip
    return weights_TC, experts_TC


def _check(
    scores_TE: torch.Tensor,
    correction_E: torch.Tensor | None,
    num_chosen: int,
    num_groups: int,
    num_chosen_groups: int,
) -> None:
    if scores_TE.dim() != 2 or scores_TE.dtype not in DTYPES:
        raise KernelInputError(f"scores of {scores_TE.dtype} {tuple(scores_TE.shape)}")
    num_experts = scores_TE.shape[1]
    if not 0 < num_chosen_groups <= num_groups or num_experts % num_groups:
        raise KernelInputError(
            f"{num_chosen_groups} of {num_groups} groups of {num_experts} experts"
        )
    if not 0 < num_chosen <= num_experts // num_groups * num_chosen_groups:
        raise KernelInputError(f"{num_chosen} experts of scores {tuple(scores_TE.shape)}")
    if correction_E is not None and correction_E.shape != (num_experts,):
        raise KernelInputError(
            f"a correction of {tuple(correction_E.shape)} for {num_experts} experts"
        )
