from pathlib import Path

import pytest
import torch
from transformers import SeedOssConfig, SeedOssForCausalLM

from llmplug import CheckpointError
from llmplug.testing import check_model

from acme_plugin import llmplug_models

# Odd on purpose: groups of three query heads, widths that no vector register divides.
TINY = {
    "vocab_size": 263,
    "hidden_size": 48,
    "intermediate_size": 75,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "attention_bias": True,
    "attention_out_bias": False,
}


@pytest.mark.parametrize("is_head_tied", [False, True])
def test_model(is_head_tied: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = SeedOssConfig(**TINY, tie_word_embeddings=is_head_tied)
    model = SeedOssForCausalLM(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # ones would hide a norm, zeros a bias, that is left out
                parameter.add_(torch.randn_like(parameter) * 0.2)
            assert parameter.isfinite().all(), name
    model.save_pretrained(tmp_path)
    (spec,) = llmplug_models()
    check_model(spec, tmp_path)


def test_what_it_does_not_serve_is_refused() -> None:
    (spec,) = llmplug_models()
    with pytest.raises(CheckpointError, match="hidden_act"):
        spec.describe({**SeedOssConfig(**TINY).to_dict(), "hidden_act": "relu"})
