"""GGUF files: config, names, and every block format."""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file

from llmplug import CheckpointError
from llmplug.testing import check_loader
from llmplug_gguf import llmplug_model_loaders
from llmplug_gguf.header import read_header
from tests import tiny
from tests.plugins.gguf_files import TOKENS, convert, permute, write_gguf

# Formats that the gguf package can write; of the others it reads any bytes as blocks.
WRITABLE = [Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0]
READABLE = [*WRITABLE, Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL,
            Type.IQ4_XS, Type.MXFP4]  # fmt: skip


@pytest.fixture(scope="module")
def loader():
    (spec,) = llmplug_model_loaders()
    return spec


@pytest.fixture(scope="module")
def checkpoint(loader, smollm2_gguf):
    return loader.open(smollm2_gguf)


@pytest.fixture(scope="module")
def reader(smollm2_gguf):
    return gguf.GGUFReader(smollm2_gguf)


# --- the real file ------------------------------------------------------------------------------
def test_header_equals_that_of_the_gguf_package(reader, smollm2_gguf):
    header = read_header(smollm2_gguf)
    fields = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert header.fields == fields
    assert {
        name: (info.type, info.shape, info.offset, info.num_bytes)
        for name, info in header.tensors.items()
    } == {
        t.name: (t.tensor_type, tuple(t.shape.tolist()[::-1]), t.data_offset, t.n_bytes)
        for t in reader.tensors
    }


def test_the_strings_of_a_header_cost_no_call_each(smollm2_gguf):
    """There are 98 thousand; the package's reader makes several calls for each, and takes seconds.

    A property of the code, not of the clock.
    """
    num_calls = 0

    def count(frame, event, argument):
        nonlocal num_calls
        num_calls += event == "call"

    sys.setprofile(count)
    try:
        read_header(smollm2_gguf)
    finally:
        sys.setprofile(None)
    assert num_calls < 20_000


def test_config_of_the_real_model(checkpoint):
    """SmolLM2-135M-Instruct's own config.json, as published."""
    expected = {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "intermediate_size": 1536,
        "max_position_embeddings": 8192, "mlp_bias": False, "model_type": "llama",
        "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "pad_token_id": 2, "rms_norm_eps": 1e-05, "tie_word_embeddings": True,
        "vocab_size": 49152, "head_dim": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    }  # fmt: skip
    assert dict(checkpoint.config) == expected
    assert checkpoint.generation_config is None


def test_tensors_of_the_real_model_equal_the_packages(checkpoint, reader):
    stored = {t.name: t for t in reader.tensors}
    pairs = [
        ("model.embed_tokens.weight", "token_embd.weight", 0),
        ("model.norm.weight", "output_norm.weight", 0),
        ("model.layers.7.mlp.down_proj.weight", "blk.7.ffn_down.weight", 0),
        ("model.layers.7.self_attn.v_proj.weight", "blk.7.attn_v.weight", 0),
        ("model.layers.7.self_attn.q_proj.weight", "blk.7.attn_q.weight", 9),
        ("model.layers.7.self_attn.k_proj.weight", "blk.7.attn_k.weight", 3),
    ]
    for name, gguf_name, heads in pairs:
        numbers = checkpoint.tensors[name].load().numpy()
        expected = gguf.quants.dequantize(stored[gguf_name].data, stored[gguf_name].tensor_type)
        np.testing.assert_array_equal(permute(numbers, heads) if heads else numbers, expected)


def test_every_tensor_has_a_hugging_face_name(checkpoint):
    from llmplug_llama import llmplug_models

    (model,) = [each for each in llmplug_models() if each.task == "generate"]
    wanted = {
        source.format(layer=layer)
        for weight in model.weights(checkpoint.config)
        for source in weight.sources
        for layer in range(30)
    }
    assert set(checkpoint.tensors) == wanted - {"lm_head.weight"}


# --- tiny models, converted ---------------------------------------------------------------------
@pytest.mark.parametrize("variant", ["llama", "llama-biases", "llama-tied", "qwen2", "qwen3"])
def test_a_converted_model_comes_back(loader, tmp_path, variant):
    folder = tiny.make_checkpoint(variant, tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    tensors = load_file(folder / "model.safetensors")
    architecture = variant.split("-")[0]
    path = convert(tmp_path / "model.gguf", architecture, config, tensors)
    check_loader(loader, path, tensors=tensors, has_tokenizer=False)
    back = loader.open(path)
    shared = set(back.config) & set(config)
    assert {key: back.config[key] for key in shared} == {key: config[key] for key in shared}
    assert shared >= {"architectures", "rope_parameters", "tie_word_embeddings", "rms_norm_eps"}


@pytest.mark.parametrize("factor", [2.0, 8.0, 32.0])
@pytest.mark.parametrize(("head_dim", "theta"), [(64, 5e5), (128, 5e5), (16, 1e4)])
@pytest.mark.parametrize(("low", "high", "original"), [(1.0, 4.0, 8192), (1.0, 8.0, 4096)])
def test_rope_factors_become_the_settings_that_made_them(
    loader, tmp_path, factor, head_dim, theta, low, high, original
):
    """Compared by the angles that transformers computes from both."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    settings = {"rope_type": "llama3", "rope_theta": theta, "factor": factor,
                "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": original}  # fmt: skip
    shape = {"head_dim": head_dim, "hidden_size": 2 * head_dim, "num_attention_heads": 2,
             "max_position_embeddings": 131072}  # fmt: skip
    compute = ROPE_INIT_FUNCTIONS["llama3"]
    scaled = compute(LlamaConfig(**shape, rope_parameters=settings), "cpu")[0].numpy()
    plain = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    path = write_gguf(
        tmp_path / "model.gguf",
        fields={"embedding_length": 2 * head_dim, "rope.freq_base": theta,
                "context_length": 131072},
        tensors={
            "token_embd.weight": (np.zeros((5, 2 * head_dim), np.float32), Type.F32),
            "rope_freqs.weight": ((plain / scaled).astype(np.float32), Type.F32),
        },
    )  # fmt: skip
    opened = loader.open(path)
    found = opened.config["rope_parameters"]
    assert found["rope_type"] == "llama3"
    again = compute(LlamaConfig(**shape, rope_parameters=dict(found)), "cpu")[0].numpy()
    np.testing.assert_allclose(again, scaled, rtol=1e-4)
    assert {**found, "original_max_position_embeddings": pytest.approx(original, rel=1e-3)} == {
        **settings,
        "high_freq_factor": pytest.approx(high, rel=1e-3),
    }
    assert "rope_freqs.weight" not in opened.tensors


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"rope_type": "default", "rope_theta": 10000.0}),
        (
            {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
            {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        ),
        (
            {"rope.scale_linear": 4.0},
            {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        ),
        ({"rope.scaling.type": "none"}, {"rope_type": "default", "rope_theta": 10000.0}),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
             "rope.scaling.original_context_length": 16, "rope.freq_base": 1e6},
            {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0,
             "original_max_position_embeddings": 16},
        ),
    ],
)  # fmt: skip
def test_rope_fields(loader, tmp_path, fields, expected):
    opened = loader.open(write_gguf(tmp_path / "model.gguf", fields=fields))
    assert opened.config["rope_parameters"] == expected


def test_a_window_makes_a_llama_file_a_mistral(loader, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", fields={"attention.sliding_window": 16})
    config = loader.open(path).config
    assert config["architectures"] == ["MistralForCausalLM"]
    assert (config["model_type"], config["sliding_window"]) == ("mistral", 16)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"expert_count": 8}, "llama.expert_count is 8"),
        ({"logit_scale": 0.5}, "llama.logit_scale is 0.5; supported is a file without it"),
        ({"rope.scaling.type": "longrope"}, "rope.scaling.type is 'longrope'"),
        ({"rope.dimension_count": 2}, "rope.dimension_count is 2"),
        ({"attention.value_length": 2}, "attention.value_length is 2"),
        ({"attention.head_count": [2, 4]}, r"attention.head_count is \[2, 4\]"),
        ({"attention.head_count": 3}, "3 heads do not divide"),
        ({"block_count": 0}, "block_count is 0"),
        ({"block_count": None}, "llama.block_count is missing"),
        ({"attention.layer_norm_rms_epsilon": float("nan")}, "is nan; supported is a number"),
        ({"embedding_length": "wide"}, "embedding_length is 'wide'"),
        ({"general.type": "adapter"}, "holds no model but 'adapter'"),
        ({"tokenizer.ggml.eos_token_id": 7}, "eos_token_id is 7, but there are 0 tokens"),
    ],
)
def test_settings_that_are_refused(loader, tmp_path, fields, message):
    path = write_gguf(tmp_path / "model.gguf", fields=fields)
    with pytest.raises(CheckpointError, match=message) as caught:
        loader.open(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_architecture_is_named(loader, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", "mamba")
    with pytest.raises(CheckpointError, match="'mamba' is not supported; supported: llama, qwen2"):
        loader.open(path)


def test_an_unknown_tensor_keeps_its_name_so_that_the_model_refuses_it(loader, tmp_path):
    tensors = {
        "token_embd.weight": (np.zeros((5, 8), np.float32), Type.F32),
        "blk.0.ffn_gate_inp.weight": (np.zeros((4, 8), np.float32), Type.F32),
        "blk.0.attn_rot_embd.weight": (np.zeros(2, np.float32), Type.F32),
    }
    opened = loader.open(write_gguf(tmp_path / "model.gguf", tensors=tensors))
    assert set(opened.tensors) == {"model.embed_tokens.weight", "blk.0.ffn_gate_inp.weight"}


@pytest.mark.parametrize(
    ("eot", "types", "expected"),
    [(None, [3, 3, 3, 1, 1], 1), (4, [3, 3, 3, 1, 1], [1, 4]), (1, [3, 3, 3, 1, 1], 1)],
)
def test_every_end_of_a_turn_is_an_eos_id(loader, tmp_path, eot, types, expected):
    fields = {"tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.token_type": types}
    if eot is not None:
        fields["tokenizer.ggml.eot_token_id"] = eot
    path = write_gguf(tmp_path / "model.gguf", fields=fields, tokens=TOKENS)
    assert loader.open(path).config["eos_token_id"] == expected


def test_a_control_token_that_ends_turns_is_an_eos_id_unsaid(loader, tmp_path):
    fields = {"tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.token_type": [3, 3, 3, 1, 3, 1]}
    tokens = [*TOKENS[:4], "<|eot_id|>", "<|im_end|>"]  # the last one is an ordinary token here
    path = write_gguf(tmp_path / "model.gguf", fields=fields, tokens=tokens)
    assert loader.open(path).config["eos_token_id"] == [1, 4]


# --- block formats ------------------------------------------------------------------------------
def make_blocks(kind: Type, num_rows: int, width: int) -> np.ndarray:
    """Blocks of any format whose scales are finite: random codes, halves near 1."""
    rng = np.random.default_rng(int(kind))
    if kind in WRITABLE:
        numbers = rng.standard_normal((num_rows, width)).astype(np.float32)
        return gguf.quants.quantize(numbers, kind).view(np.uint8).reshape(num_rows, -1)
    block_size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 0x38, (num_rows, width // block_size * num_bytes), dtype=np.uint8)
    assert np.isfinite(gguf.quants.dequantize(blocks, kind)).all()
    return blocks


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", ["blk.0.ffn_down.weight", "blk.0.attn_q.weight"])
def test_every_format_equals_the_packages(loader, tmp_path, kind, name):
    rows = 300  # more than are read at a time, and no multiple of it
    blocks = make_blocks(kind, rows, 512)
    expected = gguf.quants.dequantize(blocks, kind).reshape(rows, 512)
    path = write_gguf(
        tmp_path / "model.gguf",
        tensors={
            "token_embd.weight": (np.zeros((5, 8), np.float32), Type.F32),
            "blk.0.attn_norm.weight": (np.ones(7, np.float32), Type.F32),  # shifts what follows
            name: (blocks, kind),
        },
    )
    is_q = "attn_q" in name
    tensor = loader.open(path).tensors[
        "model.layers.0.self_attn.q_proj.weight" if is_q else "model.layers.0.mlp.down_proj.weight"
    ]
    assert (tensor.shape, tensor.format) == ((rows, 512), kind.name)
    assert tensor.num_bytes == blocks.nbytes
    loaded, raw = tensor.load(), tensor.raw()
    plain = {Type.F16: torch.float16, Type.BF16: torch.bfloat16}
    assert loaded.dtype == plain.get(kind, torch.float32)
    assert raw.dtype == torch.uint8
    in_file_order = (lambda rows: permute(rows, 2)) if is_q else (lambda rows: rows)
    np.testing.assert_array_equal(in_file_order(loaded.float().numpy()), expected)
    np.testing.assert_array_equal(in_file_order(raw.numpy()), blocks)
    for dimension, middle, end in ((0, 150, 300), (1, 256, 512)):  # of rows a head of two
        halves = [tensor.slice(dimension, *part) for part in ((0, middle), (middle, end))]
        assert [half.shape[dimension] for half in halves] == [middle, end - middle]
        assert sum(half.num_bytes for half in halves) == tensor.num_bytes
        assert torch.equal(torch.cat([half.load() for half in halves], dimension), loaded)
        assert torch.equal(torch.cat([half.raw() for half in halves], dimension), raw)
    corner = tensor.slice(1, 256, 512).slice(0, 150, 300)
    assert torch.equal(corner.load(), loaded[150:, 256:])
    if is_q:
        with pytest.raises(CheckpointError, match="a head of 150 would be cut"):
            tensor.slice(0, 0, 75)
    if gguf.GGML_QUANT_SIZES[kind][0] > 1:
        with pytest.raises(CheckpointError, match=f"a {kind.name} block of .* would be cut"):
            tensor.slice(1, 0, 8)


def test_loading_leaves_the_file_alone(loader, tmp_path):
    path = write_gguf(tmp_path / "model.gguf")
    before = path.read_bytes()
    loader.open(path).tensors["model.embed_tokens.weight"].load().fill_(3.0)
    assert path.read_bytes() == before


def test_a_format_that_nothing_reads_is_named(loader, tmp_path):
    blocks = np.zeros((5, 292), np.uint8)
    path = write_gguf(
        tmp_path / "model.gguf",
        fields={"embedding_length": 256},
        tensors={"token_embd.weight": (blocks, Type.Q8_K)},
    )
    tensor = loader.open(path).tensors["model.embed_tokens.weight"]
    with pytest.raises(CheckpointError, match=r"token_embd\.weight: the block format Q8_K"):
        tensor.load()


def test_claims(loader, tmp_path, smollm2_gguf):
    (tmp_path / "named").write_bytes(b"GGUF\3")
    (tmp_path / "other.bin").write_bytes(b"PK\3\4")
    (tmp_path / "folder.gguf").mkdir()
    names = ["named", "other.bin", "folder.gguf", "absent.gguf"]
    assert [loader.claims(tmp_path / name) for name in names] == [True, False, False, False]
    assert loader.claims(smollm2_gguf)


def test_an_empty_or_absent_file_is_a_checkpoint_error(loader, tmp_path):
    (tmp_path / "empty.gguf").touch()
    for path in (tmp_path / "empty.gguf", tmp_path / "absent.gguf", Path(tmp_path)):
        with pytest.raises(CheckpointError, match="cannot be read as a GGUF file"):
            loader.open(path)
