"""The references of the mixture of experts, against one token and one expert at a time."""

from __future__ import annotations

import math

import pytest
import torch

from llmplug.ops import expert_mlp, route_experts
from llmplug.ops.expert_mlp import EXPERT_MLP
from llmplug.ops.route_experts import ROUTE_EXPERTS

CPU = torch.device("cpu")


@pytest.mark.parametrize("example", ROUTE_EXPERTS.example_inputs(CPU, torch.float32))
def test_routes_are_the_likeliest_experts(example) -> None:
    weights_TC, experts_TC = route_experts(**example)
    for token, scores in enumerate(example["scores_TE"].tolist()):
        order = sorted(range(len(scores)), key=lambda e: (-scores[e], e))[: example["num_chosen"]]
        assert experts_TC[token].tolist() == order
        total = math.fsum(math.exp(s) for s in scores)
        weights = [math.exp(scores[e]) / total for e in order]
        if example["renormalises"]:
            weights = [w / math.fsum(weights) for w in weights]
        assert weights_TC[token].tolist() == pytest.approx(weights, rel=1e-5)


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
