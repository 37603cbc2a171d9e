"""The references of the mixture of experts, against one token and one expert at a time."""

from __future__ import annotations

import math

import pytest
import torch

from llmplug.ops import expert_mlp, route_experts
from llmplug.ops.expert_mlp import EXPERT_MLP
from llmplug.ops.route_experts import ROUTE_EXPERTS

CPU = torch.device("cpu")


def route_one(scores: list[float], example) -> tuple[list[float], list[int]]:
    """One token, as the papers say it."""
    total = math.fsum(math.exp(s) for s in scores)
    is_sigmoid = example.get("is_sigmoid", False)
    weights = [1 / (1 + math.exp(-s)) if is_sigmoid else math.exp(s) / total for s in scores]
    correction = example.get("correction_E")
    offsets = [0.0] * len(scores) if correction is None else correction.tolist()
    worth = [w + c for w, c in zip(weights, offsets, strict=True)]
    size = len(scores) // example.get("num_groups", 1)
    groups = [range(first, first + size) for first in range(0, len(scores), size)]
    groups.sort(key=lambda group: -sum(sorted((worth[e] for e in group), reverse=True)[:2]))
    allowed = sorted(e for group in groups[: example.get("num_chosen_groups", 1)] for e in group)
    chosen = sorted(allowed, key=lambda e: -worth[e])[: example["num_chosen"]]
    whole = math.fsum(weights[e] for e in chosen) if example["renormalises"] else 1.0
    return [weights[e] / whole * example.get("factor", 1.0) for e in chosen], chosen


@pytest.mark.parametrize("example", ROUTE_EXPERTS.example_inputs(CPU, torch.float32))
def test_routes_are_the_best_experts_of_the_best_groups(example) -> None:
    weights_TC, experts_TC = route_experts(**example)
    for token, scores in enumerate(example["scores_TE"].tolist()):
        weights, experts = route_one(scores, example)
        assert experts_TC[token].tolist() == experts
        assert weights_TC[token].tolist() == pytest.approx(weights, rel=1e-5)


@pytest.mark.parametrize("renormalises", [False, True])
def test_sigmoid_routes_are_those_of_transformers(renormalises: bool) -> None:
    """DeepSeek-V3's router, whose order among the chosen is its own."""
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as peer

    config = peer.DeepseekV3Config(
        n_routed_experts=32, num_experts_per_tok=6, hidden_size=16, n_group=8, topk_group=3,
        norm_topk_prob=renormalises, routed_scaling_factor=2.5,
    )  # fmt: skip
    router = peer.DeepseekV3TopkRouter(config)
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(router.weight, generator=generator)
    router.e_score_correction_bias.copy_(torch.randn(32, generator=generator) / 4)
    hidden_TD = torch.randn(20, 16, generator=generator)
    with torch.no_grad():
        logits_TE, expected_TC, expected_ids_TC = router(hidden_TD)
    weights_TC, experts_TC = route_experts(
        logits_TE, num_chosen=6, renormalises=renormalises, is_sigmoid=True,
        correction_E=router.e_score_correction_bias, num_groups=8, num_chosen_groups=3, factor=2.5,
    )  # fmt: skip
    got_TE, expected_TE = torch.zeros(2, 20, 32).unbind(0)
    got_TE.scatter_(1, experts_TC, weights_TC)
    expected_TE.scatter_(1, expected_ids_TC, expected_TC)
    torch.testing.assert_close(got_TE, expected_TE, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("example", EXPERT_MLP.example_inputs(CPU, torch.float32))
def test_experts_are_summed_by_their_weights(example) -> None:
    got = expert_mlp(**example)
    x_TD, gate_up, down = (example[n].double() for n in ("x_TD", "gate_up_E2FD", "down_EDF"))
    ffn_width = down.shape[2]
    for token in range(len(x_TD)):
        expected = torch.zeros(x_TD.shape[1], dtype=torch.float64)
        for choice, expert in enumerate(example["experts_TC"][token].tolist()):
            if 0 <= expert < len(down):
                hidden = gate_up[expert] @ x_TD[token]
                gate, up = hidden[:ffn_width], hidden[ffn_width:]
                out = down[expert] @ (gate * torch.sigmoid(gate) * up)
                expected += example["weights_TC"][token, choice].double() * out
        torch.testing.assert_close(got[token].double(), expected, rtol=1e-5, atol=1e-5)
