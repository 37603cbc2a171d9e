"""What is planned for one rank of several: its part of weights, cache, threads and devices."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny import make_checkpoint

from llmplug import LLM, ConfigError, assemble, resources
from llmplug.config import Config, from_source
from llmplug.plan import MIB, ModelPlan, Place
from tests.plans.tiny_plans import ignore_progress


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama-biases", tmp_path_factory.mktemp("made"))


def make_config(folder: Path, *sets: str) -> Config:
    fixed = ("device=cpu", "cache.memory=4MiB", *sets)
    return from_source(str(folder), sets=[f"models.0.{each}" for each in fixed])


def make_plan(folder: Path, *sets: str, place: Place | None = None) -> ModelPlan:
    config = make_config(folder, "kernels.block=[avx2,onednn]", *sets)
    registry = assemble.load_registry(config)
    (model,) = config.models
    if place is None:
        return assemble.plan_model(model, registry, ignore_progress)
    text = assemble.plan_text(model, registry, ignore_progress)
    return assemble.plan_engine(model, text.files, text.rules, registry, place)


def test_ranks_hold_all_of_the_weights_together_and_norms_each(made: Path) -> None:
    whole = make_plan(made)
    parts = [make_plan(made, "parallel.tensor=2", place=Place(rank=rank)) for rank in (0, 1)]
    repeated = sum(
        4 * math.prod(tensor.shape)
        for name, tensor in whole.checkpoint.tensors.items()
        if name.endswith("norm.weight")
    )
    assert sum(part.memory.weights for part in parts) == whole.memory.weights + repeated
    assert [part.memory.kv_per_token * 2 for part in parts] == [whole.memory.kv_per_token] * 2


def test_a_rank_has_the_pages_that_rank_0_has_planned(made: Path) -> None:
    """It asks for no memory again: rank 0 may have taken its own by then."""
    first = make_plan(made, "parallel.tensor=2", "cache.memory=auto")
    place = Place(rank=1, num_pages=first.settings.num_pages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "measure_available", lambda device: MIB)
        second = make_plan(made, "parallel.tensor=2", "cache.memory=auto", place=place)
    assert second.settings == first.settings
    assert second.memory.cache == first.memory.cache


def test_ranks_of_a_cpu_share_its_memory_and_threads(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "measure_available", lambda device: 64 * MIB)
    plan = make_plan(made, "parallel.tensor=2", "replicas=2")
    assert plan.memory.available == 16 * MIB
    for threads, expected in (("12", 3), ("3", 1)):
        config = make_plan(made, "parallel.tensor=2", "replicas=2", f"threads={threads}").config
        assert resources.share_threads(config) == expected


def test_replicas_of_several_ranks_take_gpus_of_their_own(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_plan(made, "parallel.tensor=2", "replicas=3").config
    assert [place.first_device for place in resources.place_replicas(config)] == [0, 2, 4]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    with pytest.raises(ConfigError, match=r"6 processes here take a GPU each, and torch finds 5"):
        resources.choose_device(config.model_copy(update={"device": "cuda"}))


def test_the_report_says_what_each_is(made: Path) -> None:
    lines = {line.topic: line for line in make_plan(made, "parallel.tensor=2").report()}
    assert lines["ranks"].chosen == "2"
    assert "1 key/value heads of every layer" in lines["ranks"].why
    assert "ranks" not in {line.topic for line in make_plan(made).report()}


def test_a_kernel_of_whole_layers_is_refused_with_its_reason(made: Path) -> None:
    from llmplug_cpu.build import find_reason_against

    if (reason := find_reason_against()) is not None:
        pytest.skip(reason)
    config = make_config(made, "parallel.tensor=2")
    plan = assemble.plan_model(config.models[0], assemble.load_registry(config), ignore_progress)
    (choice,) = [choice for choice in plan.kernels if choice.op == "decoder_layer"]
    assert choice.kernel == "composed"
    assert "avx2" in dict(choice.refused)


def test_llm_runs_one_rank(made: Path) -> None:
    config = make_config(made, "parallel.tensor=2")
    with pytest.raises(ConfigError, match=r"parallel.tensor: ranks are processes of a server"):
        LLM(config, progress=ignore_progress)
