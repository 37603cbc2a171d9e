"""Models that ranks compute together: on real kernels, from every format, and what is refused."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import load_reference_of, make_checkpoint, open_checkpoint, reference_logits
from tiny_encoders import CLASSIFIERS, make_encoder

import llmplug_gguf
import llmplug_llama
import llmplug_transformers
from llmplug import CheckpointError
from llmplug.engine.split import check_split
from llmplug.ops import REFERENCES, KernelTable, choose_kernels, load_kernels
from llmplug.testing import check_model
from llmplug.testing.folder_checkpoint import open_folder
from llmplug.testing.models import TOLERANCE
from llmplug.testing.thread_ranks import build_ranks
from tests.plugins.gguf_files import Type, convert
from tests.plugins.test_models import find_spec

IDS = [65, 3, 200, 17, 17, 90, 254, 1, 77]


def load_installed_kernels() -> KernelTable:
    specs = [
        (spec, point.name)
        for point in sorted(entry_points(group="llmplug"))
        if hasattr(plugin := point.load(), "llmplug_kernels")
        for spec in plugin.llmplug_kernels()
    ]
    return load_kernels(REFERENCES, specs, choose_kernels(REFERENCES, specs, "cpu", "float32"))


@pytest.mark.parametrize("variant", ["llama-biases", "qwen3-window"])
@pytest.mark.parametrize("num_ranks", [2, 6])
def test_installed_kernels_serve_ranks(variant: str, num_ranks: int, tmp_path: Path) -> None:
    """What the CPU would really run, against transformers."""
    checkpoint = open_checkpoint(make_checkpoint(variant, tmp_path))
    spec = find_spec(checkpoint.config["architectures"][0])
    start = build_ranks(spec, checkpoint, num_ranks, ops=load_installed_kernels())
    runner = start(1)
    got = torch.cat([runner.step({0: chunk})[0] for chunk in (IDS[:5], IDS[5:8], IDS[8:])])
    expected = reference_logits(load_reference_of(checkpoint), IDS)
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


def write_gguf(folder: Path, kind: Type, **changes: Any) -> Any:
    hf = make_checkpoint("llama", folder / "hf", hidden_size=64, num_attention_heads=4, **changes)
    config = json.loads((hf / "config.json").read_text())
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    tensors = load_file(hf / "model.safetensors")
    path = convert(folder / "model.gguf", "llama", config, tensors, kind=kind)
    return llmplug_gguf.llmplug_model_loaders()[0].open(path)


@pytest.mark.parametrize("kind", [Type.F16, Type.Q8_0])
def test_ranks_read_parts_of_a_gguf(kind: Type, tmp_path: Path) -> None:
    """Heads whose rows are in another order, and columns by whole blocks of 32."""
    checkpoint = write_gguf(tmp_path, kind, intermediate_size=128)
    spec = find_spec("LlamaForCausalLM")
    got = build_ranks(spec, checkpoint, 2)(1).step({0: IDS})[0]
    expected = reference_logits(load_reference_of(checkpoint), IDS)
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


def test_a_block_that_would_be_cut_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = write_gguf(tmp_path, Type.Q8_0, intermediate_size=96)
    words = r"mlp\.down_proj\.weight cannot be divided: .* a Q8_0 block of 32 would be cut"
    with pytest.raises(CheckpointError, match=words):
        build_ranks(find_spec("LlamaForCausalLM"), checkpoint, 2)


def test_a_classifier_by_the_last_token_is_divided(tmp_path: Path) -> None:
    """Its labels are not: every rank has the whole of that head."""
    kind, changes = CLASSIFIERS["llama"]
    (spec,) = [s for s in llmplug_llama.llmplug_models() if kind in s.architectures]
    check_model(spec, make_encoder(kind, changes, tmp_path))


def test_models_of_transformers_code_are_refused(tmp_path: Path) -> None:
    config = open_folder(make_checkpoint("llama", tmp_path)).config
    (spec,) = llmplug_transformers.llmplug_models()
    table, shape = spec.weights(config), spec.describe(config)
    assert check_split(table, shape, 2) == "its plugin does not say how its weights are divided"
    assert check_split(table, shape, 1) is None
