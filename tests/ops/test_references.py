"""The torch references against formulas written another way, and against transformers' modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GemmaConfig, LlamaConfig
from transformers.activations import ACT2FN
from transformers.models.gemma.modeling_gemma import GemmaMLP
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from llmplug import KernelInputError
from llmplug.ops import (
    DenseLinear,
    LoadedTensor,
    add_rms_norm,
    embed,
    gelu_mul,
    make_rope_table,
    rms_norm,
    rope,
    silu_mul,
)

CPU = torch.device("cpu")


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_equals_transformers(dtype: torch.dtype) -> None:
    x_TD, weight_D = (randn(7, 33) * 5).to(dtype), (randn(33, seed=1) + 1).to(dtype)
    module = LlamaRMSNorm(33, eps=1e-5).to(dtype)
    module.weight.data.copy_(weight_D)
    # transformers rounds to 16 bit before the weight multiplies, and once more after it.
    rtol = 1e-6 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(
        rms_norm(x_TD, weight_D, eps=1e-5), module(x_TD).detach(), rtol=rtol, atol=1e-6
    )


def test_rms_norm_of_a_row_has_mean_square_one() -> None:
    y_TD = rms_norm(randn(5, 100) * 40, torch.ones(100), eps=1e-12)
    torch.testing.assert_close(y_TD.square().mean(-1), torch.ones(5))


def test_add_rms_norm_is_add_then_norm() -> None:
    x_TD, residual_TD, weight_D = randn(4, 10), randn(4, 10, seed=1), randn(10, seed=2)
    y_TD, sum_TD = add_rms_norm(x_TD, residual_TD, weight_D, eps=1e-6)
    assert torch.equal(sum_TD, x_TD + residual_TD)
    assert torch.equal(y_TD, rms_norm(sum_TD, weight_D, eps=1e-6))


def test_silu_mul_equals_the_gate_in_transformers() -> None:
    module = LlamaMLP(
        LlamaConfig(hidden_size=6, intermediate_size=11, num_attention_heads=1)
    ).eval()
    x_TD = randn(5, 6)
    gate_up_TF = torch.cat([module.gate_proj(x_TD), module.up_proj(x_TD)], dim=-1)
    torch.testing.assert_close(module.down_proj(silu_mul(gate_up_TF)), module(x_TD))


@pytest.mark.parametrize(
    ("activation", "approximate"), [("gelu_pytorch_tanh", "tanh"), ("gelu", "none")]
)
def test_gelu_mul_equals_the_gate_in_transformers(activation: str, approximate: str) -> None:
    module = GemmaMLP(GemmaConfig(hidden_size=6, intermediate_size=11)).eval()
    module.act_fn = ACT2FN[activation]
    x_TD = randn(5, 6)
    gate_up_TF = torch.cat([module.gate_proj(x_TD), module.up_proj(x_TD)], dim=-1)
    gated_TF = gelu_mul(gate_up_TF, approximate=approximate)
    torch.testing.assert_close(module.down_proj(gated_TF), module(x_TD))


def test_embed_is_a_lookup() -> None:
    table_VD = randn(9, 4)
    x_TD = embed(torch.tensor([3, 0, 3]), table_VD)
    assert torch.equal(x_TD, torch.stack([table_VD[3], table_VD[0], table_VD[3]]))


def test_linear_joins_sources_and_adds_the_bias() -> None:
    a_OI, b_OI, bias_O, x_TI = randn(3, 5), randn(2, 5, seed=1), randn(5, seed=2), randn(4, 5)
    linear = DenseLinear()
    packed = linear.pack(
        [LoadedTensor(a_OI), LoadedTensor(b_OI)], bias_O, device=CPU, dtype=torch.float32
    )
    expected = torch.stack([torch.cat([a_OI @ x, b_OI @ x]) + bias_O for x in x_TI])
    torch.testing.assert_close(linear(x_TI, packed), expected)
    assert (packed.num_bytes, packed.format) == (4 * (25 + 5), "float32")


def test_linear_shares_a_single_source_of_its_own_dtype() -> None:
    weight_OI = randn(3, 5)
    packed = DenseLinear().pack([LoadedTensor(weight_OI)], None, device=CPU, dtype=torch.float32)
    assert packed.weight_OI.data_ptr() == weight_OI.data_ptr()


@pytest.mark.parametrize("format_name", ["int8", "int4", "bfloat16", "zebra"])
def test_linear_refuses_formats_it_does_not_serve(format_name: str) -> None:
    source = LoadedTensor(randn(3, 5))
    with pytest.raises(KernelInputError, match=format_name):
        DenseLinear().pack([source], None, device=CPU, dtype=torch.float32, format=format_name)


@pytest.mark.parametrize("shapes", [[(3, 5), (3, 4)], [(3,)], []])
def test_linear_refuses_shapes_that_do_not_join(shapes: list[tuple[int, ...]]) -> None:
    sources = [LoadedTensor(randn(*shape)) for shape in shapes]
    with pytest.raises(KernelInputError, match="join"):
        DenseLinear().pack(sources, None, device=CPU, dtype=torch.float32)


ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 3.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "yarn-all-settings": {
        "factor": 40.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 16,
        "beta_slow": 2,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
        "truncate": False,
    },
    "yarn-attention-factor": {
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.3,
    },
}
WORDS = {"llama3": "wavelength"}  # our word, where config.json has another


@pytest.mark.parametrize("name", ROPES)
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_rope_equals_transformers(name: str, theta: float) -> None:
    context, heads, kv_heads, width = 512, 3, 1, 64
    rope_type = name.split("-", maxsplit=1)[0]
    config = LlamaConfig(
        hidden_size=heads * width,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        rope_parameters={"rope_type": rope_type, "rope_theta": theta, **ROPES[name]},
    )
    positions_T = torch.tensor([0, 1, 17, 200, 511])
    q_TNH, k_TKH = randn(5, heads, width), randn(5, kv_heads, width, seed=1)
    cos, sin = LlamaRotaryEmbedding(config)(q_TNH, positions_T[None])
    expected = apply_rotary_pos_emb(
        q_TNH.transpose(0, 1)[None], k_TKH.transpose(0, 1)[None], cos, sin
    )
    scaling = {"rope_type": WORDS.get(rope_type, rope_type), **ROPES[name]}
    table_CR = make_rope_table(width, theta, context, scaling)
    for got, want in zip(rope(q_TNH, k_TKH, positions_T, table_CR), expected, strict=True):
        # transformers computes angles in float32: at position 511 that is 511 * 2**-24 off.
        torch.testing.assert_close(got, want[0].transpose(0, 1), rtol=0, atol=2e-4)


def test_rope_depends_on_distances_only() -> None:
    table_CR = make_rope_table(16, 10000.0, 100)
    q_TNH, k_TKH = randn(1, 1, 16), randn(1, 1, 16, seed=1)

    def score(query: int, key: int) -> torch.Tensor:
        rotated_q, _ = rope(q_TNH, k_TKH, torch.tensor([query]), table_CR)
        _, rotated_k = rope(q_TNH, k_TKH, torch.tensor([key]), table_CR)
        return (rotated_q * rotated_k).sum()

    torch.testing.assert_close(score(9, 4), score(95, 90), rtol=1e-4, atol=1e-5)


def test_rope_leaves_what_is_not_rotated() -> None:
    q_TNH, k_TKH = randn(3, 2, 10), randn(3, 1, 10, seed=1)
    q_out, k_out = rope(q_TNH, k_TKH, torch.arange(3), make_rope_table(6, 10000.0, 3))
    assert torch.equal(q_out[..., 6:], q_TNH[..., 6:])
    assert torch.equal(k_out[0], k_TKH[0])  # position 0 is no rotation


@pytest.mark.parametrize(
    ("width", "scaling", "message"),
    [
        (7, None, "even"),
        (8, {"rope_type": "dynamic", "factor": 2.0}, "dynamic"),
        (8, {"rope_type": "longrope"}, "longrope"),
        (8, {"rope_type": "linear"}, "factor"),
        (8, {"rope_type": "yarn", "factor": 2.0}, "original_max_position_embeddings"),
    ],
)
def test_rope_refuses(width: int, scaling: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(KernelInputError, match=message):
        make_rope_table(width, 10000.0, 16, scaling)
