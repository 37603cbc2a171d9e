"""The op `route_experts`: a softmax and the likeliest experts, a program a token.

Legend: T packed tokens, E experts, C experts that a token chooses.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError
from llmplug_triton.tensors import round_up_to_power, with_dense_rows


@triton.jit
def _route_kernel(
    scores: tl.tensor,
    weights: tl.tensor,
    experts: tl.tensor,
    stride: tl.tensor,
    NUM_EXPERTS: tl.constexpr,
    NUM_CHOSEN: tl.constexpr,
    RENORMALISES: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)  # the grid ends with the tokens
    expert_E = tl.arange(0, BLOCK_E)
    is_there_E = expert_E < NUM_EXPERTS
    score_E = tl.load(scores + token * stride + expert_E, mask=is_there_E, other=float("-inf"))
    score_E = score_E.to(tl.float32)
    prob_E = tl.exp(score_E - tl.max(score_E, 0))
    prob_E = tl.where(is_there_E, prob_E / tl.sum(prob_E, 0), -1.0)
    prob_E = tl.where(prob_E >= -1.0, prob_E, 0.0)  # NaN: any expert, but one that exists
    choice_C = tl.arange(0, BLOCK_C)
    weight_C = tl.zeros((BLOCK_C,), tl.float32)
    chosen_C = tl.zeros((BLOCK_C,), tl.int64)
    for choice in range(NUM_CHOSEN):
        highest = tl.max(prob_E, 0)
        chosen = tl.min(tl.where(prob_E == highest, expert_E, BLOCK_E), 0)
        weight_C = tl.where(choice_C == choice, highest, weight_C)
        chosen_C = tl.where(choice_C == choice, chosen, chosen_C)
        prob_E = tl.where(expert_E == chosen, -2.0, prob_E)
    if RENORMALISES:
        weight_C = weight_C / tl.sum(weight_C, 0)
    is_chosen_C = choice_C < NUM_CHOSEN
    tl.store(weights + token * NUM_CHOSEN + choice_C, weight_C, mask=is_chosen_C)
    tl.store(experts + token * NUM_CHOSEN + choice_C, chosen_C, mask=is_chosen_C)


def route_experts(
    scores_TE: torch.Tensor, *, num_chosen: int, renormalises: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the likeliest experts of each token; twin of `llmplug.ops.route_experts`.

    Raises:
        KernelInputError: scores are no matrix, or more experts are chosen than there are.
    """
    if scores_TE.dim() != 2 or not 0 < num_chosen <= scores_TE.shape[1]:
        raise KernelInputError(f"{num_chosen} experts of scores {tuple(scores_TE.shape)}")
    scores_TE = with_dense_rows(scores_TE)
    num_tokens, num_experts = scores_TE.shape
    shape, device = (num_tokens, num_chosen), scores_TE.device
    weights_TC = torch.empty(shape, device=device, dtype=torch.float32)
    experts_TC = torch.empty(shape, device=device, dtype=torch.int64)
    if num_tokens > 0:
        _route_kernel[(num_tokens,)](
            scores_TE, weights_TC, experts_TC, scores_TE.stride(0), NUM_EXPERTS=num_experts,
            NUM_CHOSEN=num_chosen, RENORMALISES=renormalises,
            BLOCK_E=round_up_to_power(num_experts), BLOCK_C=round_up_to_power(num_chosen),
            num_warps=1,
        )  # fmt: skip
    return weights_TC, experts_TC
