"""Scales of 8-bit caches: found by name, read once, and heeded by every kernel or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmplug import LLM, CheckpointError, ConfigError, KernelSpec, SamplingParams
from llmplug.build import build_engine
from llmplug.cache_choice import choose_cache
from llmplug.cache_scales import ScaleNames, find_scales, read_scales
from llmplug.config import from_source
from llmplug.ops import (
    REFERENCES,
    KernelChoice,
    LoadedTensor,
    PagedAttention,
    choose_kernels,
)
from llmplug.plan import ModelFiles
from llmplug.specs import LayerCache
from tests.plans.tiny_plans import choice_of, ignore_progress, make_plan
from tests.plugins.quantised_folders import (
    describe_cache,
    make_fp8,
    set_settings,
    write_folders,
)

TORCH_ONLY = "kernels.block=[avx2,onednn]"
PROMPT = [65, 3, 200, 17, 17, 90, 254, 1, 77]
LARGE = 2000.0  # times what keys and values are without: far beyond 448
SCALES = {"k_scale": LARGE / 50, "v_scale": LARGE / 100}


def change_tensors(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> Path:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


def enlarge(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Make keys and values large, and the numbers that meet them small: the same model."""
    factors = {"q_proj": 1 / LARGE, "k_proj": LARGE, "v_proj": LARGE, "o_proj": 1 / LARGE}
    for name in tensors:
        if name.endswith(".weight_scale"):
            tensors[name] *= factors.get(name.split(".")[-2], 1.0)
    return tensors


def name_scales(values: dict[str, float]) -> dict[str, torch.Tensor]:
    return {
        f"model.layers.{layer}.self_attn.{name}": torch.tensor([value])
        for layer in range(2)
        for name, value in values.items()
    }


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as llm-compressor writes it."""
    quantise = make_fp8("weight_scale", "one")
    folder, _ = write_folders(tmp_path_factory.mktemp("scaled"), quantise, describe_cache())
    return change_tensors(folder, lambda tensors: {**enlarge(tensors), **name_scales(SCALES)})


def rate(folder: Path, cache_dtype: str) -> list[float]:
    """Return the log-probabilities of a prompt's tokens, and of some that follow."""
    config = from_source(str(folder), sets=[
        f"models.0.{each}" for each in
        ("device=cpu", "cache.memory=4MiB", TORCH_ONLY, f"cache.dtype={cache_dtype}")
    ])  # fmt: skip
    params = SamplingParams(
        temperature=0.0, max_tokens=4, ignore_eos=True, logprobs=0, prompt_logprobs=0
    )
    with LLM(config, progress=ignore_progress) as llm:
        (answer,) = llm.generate([PROMPT], params)
    assert answer.logprobs is not None
    assert answer.prompt_logprobs is not None
    return [each.logprob for each in (*answer.prompt_logprobs, *answer.logprobs[:1]) if each]


def test_logits_with_the_scales_are_nearer_than_without(scaled: Path, tmp_path: Path) -> None:
    exact = torch.tensor(rate(scaled, "float32"))
    with_scales = torch.tensor(rate(scaled, "fp8"))
    ones = dict.fromkeys(SCALES, 1.0)
    for file in scaled.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change_tensors(tmp_path, lambda tensors: tensors | name_scales(ones))
    without = torch.tensor(rate(tmp_path, "fp8"))
    error, clipped = ((each - exact).abs().mean() for each in (with_scales, without))
    assert clipped > 8 * error
    assert error < 0.25  # 8 bits keep 4 digits of each key and value, and logits are near 5


def test_a_checkpoint_with_scales_gets_8_bits_and_the_report_says_why(scaled: Path) -> None:
    plan = make_plan(scaled, TORCH_ONLY)
    assert choice_of(plan, "cache dtype") == (
        "float8_e4m3fn", "the checkpoint has scales for keys and values in 8 bits"
    )  # fmt: skip
    assert plan.memory.kv_per_token == 2 * 2 * 2 * 16  # k and v, layers, heads, width
    asked = make_plan(scaled, TORCH_ONLY, "cache.dtype=fp8")
    assert asked.scales == plan.scales
    assert "with the checkpoint's scales" in choice_of(asked, "cache dtype")[1]


def test_caches_may_be_all_that_is_quantised(made: Path, tmp_path: Path) -> None:
    """Weights stay as they were, and a scheme of attention speaks of activations alone."""
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    scheme = describe_cache()["kv_cache_scheme"]
    group = {"targets": ["LlamaAttention"], "weights": None, "input_activations": scheme}
    settings = {"format": "dense", "config_groups": {"group_0": group}}
    set_settings(tmp_path, {**describe_cache(), **settings})
    change_tensors(tmp_path, lambda tensors: tensors | name_scales({**SCALES, "q_scale": 1.0}))
    plan = make_plan(tmp_path, TORCH_ONLY)
    assert plan.settings.cache_dtype == "float8_e4m3fn"
    assert len(plan.scales) == 2


def test_scales_that_are_not_used_are_told(scaled: Path) -> None:
    plan = make_plan(scaled, TORCH_ONLY, "cache.dtype=bfloat16")
    assert plan.settings.cache_dtype == "bfloat16"
    assert plan.scales == ()
    assert "scales for 8 bits are not used" in choice_of(plan, "cache dtype")[1]


def test_a_checkpoint_without_scales_is_planned_as_before(made: Path) -> None:
    assert make_plan(made, TORCH_ONLY).settings.cache_dtype == "float16"
    plan = make_plan(made, TORCH_ONLY, "cache.dtype=fp8")
    assert plan.scales == ()
    assert choice_of(plan, "cache dtype")[1] == "the config says so, with no scales"


@pytest.fixture
def files(scaled: Path) -> ModelFiles:
    plan = make_plan(scaled, TORCH_ONLY)
    return ModelFiles(
        path=plan.path, checkpoint=plan.checkpoint, model=plan.model, shape=plan.shape
    )


@pytest.mark.parametrize("op", ["attention", "rope_store", "decoder_layer"])
@pytest.mark.parametrize(
    ("supports_scales", "words"),
    [(None, "theirs: it knows no scales"), (lambda device: f"none on {device}", "none on cpu")],
)
def test_a_kernel_that_heeds_no_scales_is_refused_by_name(
    files: ModelFiles, op: str, supports_scales, words: str
) -> None:
    spec = KernelSpec(
        op=op, name="theirs", supports=lambda device, dtype: None, load=print,
        supports_scales=supports_scales,
    )  # fmt: skip
    specs = [(spec, "acme")]
    kernels = choose_kernels(REFERENCES, specs, "cpu", "float32")

    def choose(wanted: str):
        config = from_source("here", sets=[f"models.0.cache.dtype={wanted}"]).models[0]
        return choose_cache(config, files, "float32", "cpu", kernels, specs)

    with pytest.raises(ConfigError, match=f"{op}/.*{words}"):
        choose("fp8")
    choice, scales = choose("auto")
    assert (choice.chosen, scales) == ("float16", ())
    assert words in choice.why


def test_a_kernel_that_heeds_scales_gets_them(files: ModelFiles) -> None:
    spec = KernelSpec(
        op="attention", name="theirs", supports=lambda device, dtype: None, load=print,
        supports_scales=lambda device: None,
    )  # fmt: skip
    kernels = choose_kernels(REFERENCES, [(spec, "acme")], "cpu", "float32")
    config = from_source("here").models[0]
    choice, scales = choose_cache(config, files, "float32", "cpu", kernels, [(spec, "acme")])
    assert choice.chosen == "float8_e4m3fn"
    assert len(scales) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.layers.{}.self_attn.k_scale", "model.layers.{}.self_attn.v_scale"),
        ("model.layers.{}.self_attn.attn.k_scale", "model.layers.{}.self_attn.attn.v_scale"),
        ("model.layers.{}.self_attn.k_proj.k_scale", "model.layers.{}.self_attn.v_proj.v_scale"),
        ("layers.{}.attn.k_proj.output_scale", "layers.{}.attn.v_proj.output_scale"),
        ("model.layers.{}.self_attn.kv_scale", "model.layers.{}.self_attn.kv_scale"),
    ],
)
def test_all_names_that_programs_have_used_are_known(key: str, value: str) -> None:
    names = {each.format(layer) for layer in range(11) for each in (key, value)}
    names |= {"model.layers.3.self_attn.q_scale", "a.weight"}  # queries are not in 8 bits
    expected = tuple(ScaleNames(key.format(i), value.format(i)) for i in range(11))
    assert find_scales(names, 11) == expected
    assert find_scales({"model.layers.0.self_attn.q_proj.output_scale"}, 2) == ()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"h.0.k_scale"}, "layer 0 has no v_scale"),
        ({"h.0.k_scale", "h.0.v_scale", "h.1.k_scale"}, "layer 1 has no v_scale"),
        ({"h.0.kv_scale", "h.1.kv_scale", "h.2.kv_scale"}, "h.2.kv_scale is of a layer without"),
        ({"h.0.kv_scale", "h.0.v_scale", "h.1.kv_scale"}, "scale the same v"),
    ],
)
def test_scales_that_do_not_fit_the_layers_are_refused(names: set[str], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        find_scales(names, 2)


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (torch.tensor(0.0), "h.0.v_scale is 0.0"),
        (torch.tensor([-0.5]), "is -0.5"),
        (torch.tensor(float("nan")), "is nan"),
        (torch.tensor(float("inf")), "is inf"),
        (torch.tensor(1e-42), "must be a positive number"),
        (torch.ones(2), "scales of heads are not served"),
    ],
)
def test_a_scale_must_be_one_positive_number(scale: torch.Tensor, words: str) -> None:
    names = [ScaleNames("h.0.k_scale", "h.0.v_scale")]
    tensors = {"h.0.k_scale": LoadedTensor(torch.tensor([2.0])), "h.0.v_scale": LoadedTensor(scale)}
    layer = LayerCache(num_kv_heads=1, head_width=8)
    with pytest.raises(CheckpointError, match=words):
        read_scales([layer], names, tensors)
    tensors["h.0.v_scale"] = LoadedTensor(torch.tensor([0.5]).bfloat16())
    (got,) = read_scales([layer], names, tensors)
    assert (got.key_scale, got.value_scale) == (2.0, 0.5)


def test_a_tensor_that_the_model_speaks_of_is_no_scale_of_a_cache(files: ModelFiles) -> None:
    names = tuple(f"model.layers.{{layer}}.self_attn.{name}" for name in SCALES)
    theirs = replace(files, model=replace(files.model, ignored=names))
    kernels = choose_kernels(REFERENCES, [], "cpu", "float32")
    config = from_source("here").models[0]
    choice, scales = choose_cache(config, theirs, "float32", "cpu", kernels, [])
    assert (choice.chosen, scales) == ("float16", ())


def test_a_kernel_that_takes_the_place_of_another_is_asked_too(scaled: Path) -> None:
    """What was planned did not load: its spare knows no scales, and nothing is loaded for it."""
    plan = make_plan(scaled, TORCH_ONLY)
    spare = KernelSpec(
        op="attention", name="spare", supports=lambda device, dtype: None, load=PagedAttention
    )
    first = replace(spare, name="first", load=lambda: 1 / 0, supports_scales=lambda device: None)
    specs = [(first, "acme"), (spare, "acme")]
    chosen = KernelChoice(op="attention", kernel="first", plugin="acme", spare=(("spare", "acme"),))
    kernels = tuple(chosen if each.op == "attention" else each for each in plan.kernels)
    registry: Any = SimpleNamespace(kernels=specs)
    with pytest.raises(ConfigError, match="attention/spare: it knows no scales"):
        build_engine(replace(plan, kernels=kernels), registry, ignore_progress)
