from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from example_olmoe import llmplug_models
from llmplug import CheckpointError
from llmplug.testing import check_model
from transformers import OlmoeConfig, OlmoeForCausalLM

# Odd on purpose: groups of three query heads, widths that no vector register divides.
TINY: dict[str, Any] = {
    "vocab_size": 263,
    "hidden_size": 48,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "eos_token_id": 1,
}


def write_checkpoint(folder: Path, **changes: Any) -> Callable[[Sequence[int]], torch.Tensor]:
    """Write a model of random weights; return what transformers computes with them."""
    torch.manual_seed(0)
    model = OlmoeForCausalLM(OlmoeConfig(**{**TINY, **changes})).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # ones would hide a norm, zeros a bias, that is left out
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif name.endswith("mlp.gate.weight"):  # in bfloat16, too, tokens get the same experts
                parameter.mul_(5)
    model.set_experts_implementation("eager")  # the others want widths that are no odd numbers
    model.save_pretrained(folder)  # each expert's matrices by themselves, as published files do

    @torch.inference_mode()
    def compute_logits(token_ids: Sequence[int]) -> torch.Tensor:
        logits_TV: torch.Tensor = model(torch.tensor([list(token_ids)])).logits[0]
        return logits_TV

    return compute_logits


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_topk_prob": True, "tie_word_embeddings": True, "num_key_value_heads": 6},
        {"attention_bias": True, "num_experts": 3, "num_experts_per_tok": 3},
    ],
    ids=["plain", "renormalised", "biases"],
)
def test_model(changes: dict[str, Any], tmp_path: Path) -> None:
    reference = write_checkpoint(tmp_path, **changes)
    (spec,) = llmplug_models()
    # Transformers adds what the experts say in their order, we in that of the router's choice.
    check_model(spec, tmp_path, reference=reference, tolerance=1e-4)


@pytest.mark.parametrize(
    ("field", "value"),
    [("hidden_act", "relu"), ("clip_qkv", 8.0), ("num_experts_per_tok", 6)],
)
def test_what_it_does_not_serve_is_refused(field: str, value: object) -> None:
    (spec,) = llmplug_models()
    with pytest.raises(CheckpointError, match="config.json"):
        spec.describe({**OlmoeConfig(**TINY).to_dict(), field: value})
