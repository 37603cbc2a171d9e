"""Architectures without a plugin of their own: the same greedy tokens as transformers' `generate`.

Tiny random checkpoints are written by transformers, planned and built as a config says, and asked
for several prompts at once, read in chunks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.fake_model import drain, make_request, output_of
from tiny import EOS_ID, make_tokenizer

from llmplug import CheckpointError, assemble
from llmplug.build import build_engine
from llmplug.config import Config, parse
from llmplug.engine.engine import Engine
from llmplug.plan import ModelPlan
from llmplug_transformers.claims import is_known

NUM_TOKENS = 8
PROMPTS = [[(i * 37 + j * 11 + i * j) % 256 for j in range(5 + 9 * i)] for i in range(3)]

# Fields that an architecture does not have are left out.
SHAPE = {
    "vocab_size": 263,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "sliding_window": 7,
    "max_position_embeddings": 128,
    "bos_token_id": 256,
    "eos_token_id": EOS_ID,
    "pad_token_id": 0,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "qk_head_dim": 16,
    "v_head_dim": 12,
    "num_key_value_heads": 4,
    "head_dim": 8,
}

SERVED: dict[str, dict[str, Any]] = {
    "apertus": {},
    "cohere2": {"layer_types": ["sliding_attention", "full_attention"]},
    "deepseek_v3": {**LATENT, "first_k_dense_replace": 1},
    "diffllama": {},  # two calls of attention in a layer
    "dots1": {},
    "ernie4_5_moe": {},
    "exaone4": {"layer_types": ["sliding_attention", "full_attention"]},
    "gemma2": {"layer_types": ["sliding_attention", "full_attention"]},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "glm4": {},
    "glm4_moe": {"first_k_dense_replace": 1},
    "gpt2": {},  # learned positions, a tied head
    "gpt_bigcode": {},  # one key/value head
    "gpt_neox": {},
    "gpt_oss": {"layer_types": ["sliding_attention", "full_attention"]},  # sinks
    "granite": {},
    "granitemoe": {},
    "helium": {},
    "llama4_text": {"layer_types": ["full_attention", "full_attention"]},
    "mixtral": {},
    "nemotron": {},
    "olmo3": {"layer_types": ["sliding_attention", "full_attention"]},
    "olmoe": {},
    "opt": {"num_key_value_heads": 4},
    "phi": {},
    "phi3": {},
    "qwen2_moe": {},
    "qwen3_moe": {},
    "starcoder2": {},
    "vaultgemma": {"layer_types": ["sliding_attention", "full_attention"]},
}


def write(model_type: str, folder: Path, **fields: Any) -> Any:
    """Write a tiny checkpoint of a model type; return transformers' model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    known = AutoConfig.for_model(model_type)
    shape = {name: value for name, value in SHAPE.items() if hasattr(known, name)}
    if getattr(known, "sliding_window", None) is None:
        shape.pop("sliding_window", None)
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**shape, **fields})
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # zeros would hide one that is not read
                parameter.copy_(torch.randn_like(parameter) * 0.3)
            elif "norm" in name and parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    make_tokenizer(folder)
    return model


def read_config(folder: Path, **changes: str) -> Config:
    lines = {"dtype": "float32", "context_length": "64", **changes}
    return parse(
        f"models: [{{source: '{folder}', name: m, device: cpu, "
        + "".join(f"{key}: {value}, " for key, value in lines.items())
        + "cache: {dtype: float32, memory: 8MiB, page_size: 4}, kernels: {block: [avx2]}, "
        "scheduler: {prefill_chunk: 6}}]"
    )


def plan(folder: Path, **changes: str) -> tuple[ModelPlan, Any]:
    config = read_config(folder, **changes)
    registry = assemble.load_registry(config)
    return assemble.plan_model(config.models[0], registry, _ignore), registry


def build(folder: Path, **changes: str) -> Engine:
    planned, registry = plan(folder, **changes)
    engine = build_engine(planned, registry, _ignore)
    assert isinstance(engine, Engine)
    return engine


def _ignore(stage: str, done: int, total: int) -> None: ...


@torch.inference_mode()
def generate(model: Any, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    tokens: list[int] = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NUM_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    return tokens


@pytest.mark.parametrize("model_type", SERVED)
def test_same_tokens_as_generate(model_type: str, tmp_path: Path) -> None:
    fields = SERVED[model_type]
    model = write(model_type, tmp_path, **fields)
    engine = build(tmp_path)
    for number, prompt in enumerate(PROMPTS):
        engine.add(make_request(str(number), prompt, max_tokens=NUM_TOKENS))
    answers = drain(engine)
    for number, prompt in enumerate(PROMPTS):
        wanted = generate(model, prompt)
        if EOS_ID in wanted:
            wanted = wanted[: wanted.index(EOS_ID) + 1]
        assert output_of(answers[str(number), 0]) == wanted


def test_check_says_that_it_is_the_slower_road(tmp_path: Path) -> None:
    write("gpt_neox", tmp_path)
    planned, _ = plan(tmp_path)
    (choice,) = [choice for choice in planned.choices if choice.topic == "architecture"]
    assert choice.chosen == "transformers"
    assert "GPTNeoXForCausalLM" in choice.why
    assert "slower road" in choice.why


def test_a_plugin_of_its_own_comes_first(tmp_path: Path) -> None:
    write("llama", tmp_path)
    planned, _ = plan(tmp_path)
    assert planned.model.name == "llama"


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        ("mamba", {}, "takes no positions"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "state of another kind"),
        ("bloom", {}, "takes no positions"),
        ("gptj", {"rotary_dim": 4}, "cannot be run"),
    ],
)
def test_other_states_are_refused(
    model_type: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(model_type, tmp_path, **fields)
    with pytest.raises(CheckpointError, match=message):
        plan(tmp_path)


def test_what_differs_without_pages_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose layers look at the step, not at what is cached, is found out at the start."""
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer

    write("gpt_neox", tmp_path)
    forward = GPTNeoXLayer.forward

    def look_back(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return forward(self, hidden_states + hidden_states.roll(1, dims=1), *args, **kwargs)

    monkeypatch.setattr(GPTNeoXLayer, "forward", look_back)
    with pytest.raises(CheckpointError, match="computes something else"):
        build(tmp_path)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    write("gpt_neox", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "unheard_of"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="quanti"):
        plan(tmp_path)


def test_what_transformers_does_not_know_is_not_claimed() -> None:
    assert is_known({"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox"})
    assert not is_known(
        {"architectures": ["GPTNeoXForTokenClassification"], "model_type": "gpt_neox"}
    )
    assert not is_known({"architectures": ["MyForCausalLM"], "model_type": "gpt_neox"})
    assert not is_known({"architectures": ["XForCausalLM"], "model_type": "../../etc"})
    assert not is_known({"architectures": ["XForCausalLM"]})


def test_rotations_that_depend_on_the_longest_end_at_their_first_length(tmp_path: Path) -> None:
    rope = {
        "rope_type": "dynamic",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    write("granite", tmp_path, rope_parameters=rope)
    with pytest.raises(Exception, match="32"):
        plan(tmp_path)
    planned, _ = plan(tmp_path, context_length="32")
    assert planned.settings.context_length == 32
