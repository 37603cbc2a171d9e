"""Quantised checkpoints, against transformers' model of the numbers that were packed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmplug import CheckpointError, KernelInputError
from llmplug.ops import (
    REFERENCES,
    Fp8Tensor,
    PackedIntTensor,
    choose_kernels,
    load_kernels,
)
from llmplug.tensor_slices import slice_tensor
from llmplug.testing.step_runner import StepRunner
from llmplug.testing.thread_ranks import build_ranks
from llmplug_safetensors import llmplug_model_loaders
from tests import tiny
from tests.plugins.quantised_folders import (
    FORMATS,
    FP8_BLOCKS,
    describe_awq,
    describe_cache,
    describe_compressed,
    describe_gptq,
    set_settings,
    write_folders,
)
from tests.plugins.test_models import build, find_spec

(LOADER,) = llmplug_model_loaders()
IDS = [65, 3, 200, 17, 17, 90, 254, 1, 77]
# Sums of the same float32 numbers in another order: logits are near 5, so a few dozen ulps.
TOLERANCE = 2e-5
# int8 with one scale an output has half a step of 1/254 of its largest number in each weight.
TOLERANCE_INT8 = 0.3

Folders = tuple[Path, Path]


@pytest.fixture(scope="module", params=FORMATS)
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    quantise, settings = FORMATS[request.param]
    return write_folders(tmp_path_factory.mktemp("model"), quantise, settings)


@pytest.fixture
def gptq_folder(tmp_path: Path) -> Path:
    return write_folders(tmp_path, *FORMATS["gptq"])[0]


def run(folder: Path, ops: Any) -> torch.Tensor:
    return StepRunner(build(LOADER.open(folder), ops=ops), 1).step({0: IDS})[0]


def take_kernels(name: str) -> Any:
    """References, but for the op `linear` of one plugin."""
    (point,) = entry_points(group="llmplug", name=name)
    (spec,) = [spec for spec in point.load().llmplug_kernels() if spec.op == "linear"]
    if name == "triton":  # it refuses CPUs, and knows nothing of its interpreter
        spec = replace(spec, supports=lambda device, dtype: None)
    reason = spec.supports("cpu", "float32")
    if reason is not None:
        pytest.skip(reason)
    specs = [(spec, name)]
    return load_kernels(REFERENCES, specs, choose_kernels(REFERENCES, specs, "cpu", "float32"))


def expected_logits(plain: Path) -> torch.Tensor:
    return tiny.reference_logits(tiny.load_reference(plain), IDS)


@torch.inference_mode()
def test_tensors_are_those_that_were_packed(folders: Folders) -> None:
    quantised, plain = folders
    tensors, expected = LOADER.open(quantised).tensors, load_file(plain / "model.safetensors")
    assert set(tensors) == set(expected)
    for name, tensor in expected.items():
        got = tensors[name]
        assert tuple(got.shape) == tuple(tensor.shape)
        torch.testing.assert_close(got.load().float(), tensor, rtol=1e-6, atol=1e-7)
        if "_proj." in name:
            assert isinstance(got, Fp8Tensor | PackedIntTensor)
    assert sum(t.num_bytes for t in tensors.values()) <= sum(t.nbytes for t in expected.values())


@torch.inference_mode()
def test_parts_are_those_of_the_whole(folders: Folders) -> None:
    """Of groups out of order, inputs cannot be cut; all else can."""
    refused = set()
    for name, tensor in LOADER.open(folders[0]).tensors.items():
        whole = tensor.load()
        for dimension, size in enumerate(tensor.shape):
            bounds = ((0, size // 2), (size // 2, size))
            try:
                halves = [slice_tensor(tensor, dimension, *part) for part in bounds]
            except KernelInputError as error:
                refused.add(str(error))
                continue
            assert max(half.num_bytes for half in halves) < tensor.num_bytes, name
            assert torch.equal(torch.cat([half.load() for half in halves], dimension), whole), name
    settings = json.loads((folders[0] / "config.json").read_text())["quantization_config"]
    assert bool(refused) == bool(settings.get("desc_act")), refused


@torch.inference_mode()
@pytest.mark.parametrize("kernels", ["onednn", "triton"])
def test_logits_equal_those_of_the_numbers(folders: Folders, kernels: str) -> None:
    quantised, plain = folders
    if kernels == "triton":
        pytest.importorskip("triton", reason="triton is not installed")
        if torch.cuda.is_available():
            pytest.skip("this test's weights are on the CPU: for the interpreter alone")
    got = run(quantised, take_kernels(kernels))
    torch.testing.assert_close(got, expected_logits(plain), rtol=0, atol=TOLERANCE)


def test_two_ranks_give_the_same_logits(folders: Folders) -> None:
    """Each reads its codes and the scales of these; groups out of order are refused by name."""
    quantised, plain = folders
    checkpoint = LOADER.open(quantised)
    spec = find_spec(checkpoint.config["architectures"][0])
    if json.loads((quantised / "config.json").read_text())["quantization_config"].get("desc_act"):
        words = r"layers\.0\.self_attn\.o_proj\.weight cannot be divided: .* out of order"
        with pytest.raises(CheckpointError, match=words):
            build_ranks(spec, checkpoint, 2)
        return
    got = build_ranks(spec, checkpoint, 2)(1).step({0: IDS})[0]
    torch.testing.assert_close(got, expected_logits(plain), rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_kernels_that_keep_other_formats_come_near(folders: Folders) -> None:
    """The CPU's own kernels round to int8: near, and told by `llmplug check`."""
    quantised, plain = folders
    got = run(quantised, take_kernels("cpu"))
    torch.testing.assert_close(got, expected_logits(plain), rtol=0, atol=TOLERANCE_INT8)


def test_triton_keeps_the_codes(folders: Folders) -> None:
    """Codes of 4 and 8 bits, in order or not, and 8-bit floats stay as they are."""
    (point,) = entry_points(group="llmplug", name="triton")
    (spec,) = [spec for spec in point.load().llmplug_kernels() if spec.op == "linear"]
    for name, tensor in LOADER.open(folders[0]).tensors.items():
        if "_proj." in name:
            assert spec.keep is not None
            kept = spec.keep(tensor, "auto")
            assert kept is not None
            assert kept.format == tensor.format


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 32, "desc_act": False, "sym": False}),
        ("quant_config.json", {"w_bit": 4, "q_group_size": 32, "zero_point": True,
                               "version": "GEMM"}),
    ],
)  # fmt: skip
def test_settings_in_a_file_of_their_own_are_read(
    file: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    name = "gptq" if file.startswith("quantize") else "awq"
    folder = write_folders(tmp_path, *FORMATS[name])[0]
    expected = {key: tensor.load() for key, tensor in LOADER.open(folder).tensors.items()}
    set_settings(folder, None)
    (folder / file).write_text(json.dumps(settings))
    checkpoint = LOADER.open(folder)
    assert folder / file in checkpoint.files
    assert set(checkpoint.tensors) == set(expected)
    for key, tensor in expected.items():
        assert torch.equal(checkpoint.tensors[key].load(), tensor)


def change_weights(settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    settings["config_groups"]["group_0"]["weights"] |= changes
    return settings


REFUSED: list[tuple[Any, str]] = [
    ("awq", "must be an object"),
    ({}, "quant_method is None"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quant_method is 'bitsandbytes'"),
    (describe_gptq(3), "bits is 3"),
    (describe_gptq(True), "bits is True"),
    (describe_gptq(4, group_size=0), "group_size is 0"),
    (describe_gptq(4, checkpoint_format="marlin"), "checkpoint_format is 'marlin'"),
    (describe_gptq(4, dynamic={"+:.*down.*": {"bits": 8}}), "dynamic: other settings"),
    (describe_gptq(4, rotation="hadamard", hyb_act=1), "hyb_act, rotation: not known"),
    (describe_awq(version="gemv"), "version is 'gemv'"),
    (describe_awq(zero_point=False), "zero_point is False"),
    (describe_awq(bits=8), "bits is 8"),
    ({**FP8_BLOCKS, "weight_block_size": [64, 64]}, r"weight_block_size is \[64, 64\]"),
    ({**FP8_BLOCKS, "fmt": "e5m2"}, "fmt is 'e5m2'"),
    ({**FP8_BLOCKS, "kv_cache_scheme": "dynamic"}, "kv_cache_scheme is 'dynamic'"),
    (describe_compressed("channel", format="pack-quantized"), "format is 'pack-quantized'"),
    (describe_cache(num_bits=4), "kv_cache_scheme: num_bits is 4"),
    (describe_cache(type="int"), "kv_cache_scheme: type is 'int'"),
    (describe_cache(strategy="attn_head"), "kv_cache_scheme: strategy is 'attn_head'"),
    (describe_cache(dynamic=True), "kv_cache_scheme: dynamic is True"),
    (describe_cache(symmetric=False), "kv_cache_scheme: symmetric is False"),
    (describe_cache(rotation=1), "kv_cache_scheme: rotation: not known"),
    (describe_compressed("channel", sparsity_config={"format": "sparse-24"}), "sparse-24"),
    (describe_compressed("group"), "strategy is 'group'"),
    (change_weights(describe_compressed("channel"), type="int"), "type is 'int'"),
    (change_weights(describe_compressed("channel"), num_bits=4), "num_bits is 4"),
    (change_weights(describe_compressed("channel"), symmetric=False), "symmetric is False"),
    (change_weights(describe_compressed("channel"), offset=1), "offset: not known"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_is_not_known_is_refused(settings: Any, message: str, gptq_folder: Path) -> None:
    set_settings(gptq_folder, settings)
    with pytest.raises(CheckpointError, match=message) as caught:
        LOADER.open(gptq_folder)
    assert "quantization_config" in str(caught.value)


def change_tensors(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    """Replace a tensor of the file, or take it out."""
    path = folder / "model.safetensors"
    tensors = {**load_file(path), name: tensor}
    save_file({key: part for key, part in tensors.items() if part is not None}, path)


LAYER = "model.layers.0.mlp.up_proj"  # 128 outputs, 64 inputs


@pytest.mark.parametrize(
    ("part", "tensor", "message"),
    [
        ("scales", None, "scales is missing"),
        ("qzeros", None, "qzeros is missing"),
        ("qzeros", torch.zeros(2, 15, dtype=torch.int32), r"must be \(2, 16\)"),
        ("scales", torch.zeros(4, 128), r"scales has shape \(4, 128\).*must be \(2, 128\)"),
        ("scales", torch.zeros(128), "must be matrices"),
        ("qweight", torch.zeros(8, 128), "is of F32; it must be of I32"),
        ("g_idx", torch.zeros(63, dtype=torch.int32), r"must be \(64,\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    part: str, tensor: torch.Tensor | None, message: str, gptq_folder: Path
) -> None:
    change_tensors(gptq_folder, f"{LAYER}.{part}", tensor)
    with pytest.raises(CheckpointError, match=f"{re.escape(LAYER)}.*{message}"):
        LOADER.open(gptq_folder).tensors  # noqa: B018 - they are gathered when first read


def test_groups_that_are_not_there_are_refused(gptq_folder: Path) -> None:
    change_tensors(gptq_folder, f"{LAYER}.g_idx", torch.full((64,), -1, dtype=torch.int32))
    with pytest.raises(KernelInputError, match="groups that it has not"):
        LOADER.open(gptq_folder).tensors[f"{LAYER}.weight"].load()


def test_a_scheme_for_caches_without_scales_is_refused(tmp_path: Path) -> None:
    quantise, _ = FORMATS["compressed, one scale"]
    folder = write_folders(tmp_path, quantise, describe_cache())[0]
    with pytest.raises(CheckpointError, match="kv_cache_scheme promises scales"):
        LOADER.open(folder).tensors  # noqa: B018 - they are gathered when first read


def test_fp8_without_its_scale_is_refused(tmp_path: Path) -> None:
    folder = write_folders(tmp_path, *FORMATS["fp8, blocks"])[0]
    change_tensors(folder, f"{LAYER}.weight_scale_inv", None)
    with pytest.raises(CheckpointError, match="must be a weight with one of"):
        LOADER.open(folder).tensors  # noqa: B018 - they are gathered when first read
