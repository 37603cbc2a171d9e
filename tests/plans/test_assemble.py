"""Plans: each choice is the config's, the checkpoint's or a measured one, and adds up.

What is printed of a plan is tested with `llmplug check`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from llmplug import (
    ConfigError,
    GenerateRequest,
    KernelInputError,
    SamplingParams,
    resources,
)
from llmplug.assemble import cache_dir, load_registry, plan_model, sampler_fields
from llmplug.build import build_engine
from llmplug.config import from_source
from llmplug.engine.engine import Engine
from llmplug.plan import MIB, format_bytes
from tests.plans.tiny_plans import choice_of, ignore_progress, make_plan


@pytest.mark.parametrize(("sets", "expected"), [((), None), (("35",), 35.0), (("auto",), None)])
def test_the_engine_gets_the_inter_token_time(made: Path, sets, expected) -> None:
    plan = make_plan(made, *(f"scheduler.inter_token_ms={value}" for value in sets))
    assert plan.settings.inter_token_ms == expected


# --- memory -------------------------------------------------------------------------------------
def test_prefixes_are_shared_unless_the_config_says_no(made: Path) -> None:
    assert make_plan(made).settings.is_prefix_cached
    assert not make_plan(made, "cache.share_prefixes=false").settings.is_prefix_cached


@pytest.mark.parametrize(("dtype", "num_bytes"), [("float32", 4), ("float16", 2), ("auto", 2)])
def test_the_cache_is_what_the_pages_hold(made: Path, dtype: str, num_bytes: int) -> None:
    plan = make_plan(made, "cache.page_size=8", "cache.memory=1MiB", f"cache.dtype={dtype}")
    assert plan.memory.kv_per_token == 2 * 2 * 2 * 8 * num_bytes  # k and v, layers, heads, width
    assert plan.settings.num_pages == MIB // (8 * plan.memory.kv_per_token)
    assert plan.memory.cache == plan.settings.num_pages * 8 * plan.memory.kv_per_token
    parts = plan.memory.weights + plan.memory.cache + plan.memory.workspace
    assert plan.memory.total == parts
    assert choice_of(plan, "memory sum")[0] == format_bytes(parts)


def test_no_more_pages_than_sequences_can_use(made: Path) -> None:
    plan = make_plan(made, "scheduler.max_sequences=2", "cache.memory=64MiB", "cache.page_size=100")
    assert plan.settings.num_pages == 2 * math.ceil(256 / 100)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_are_those_that_are_loaded(made: Path, dtype: str) -> None:
    """The plan knows their bytes from headers; a vector of norms or biases more or less."""
    plan = make_plan(made, f"dtype={dtype}", "kernels.block=[avx2,onednn]")
    numbers = sum(math.prod(tensor.shape) for tensor in plan.checkpoint.tensors.values())
    assert plan.memory.weights == numbers * resources.DTYPE_BYTES[dtype]


def test_the_engine_takes_the_cache_that_was_planned(made: Path) -> None:
    config = from_source(str(made), sets=["models.0.cache.memory=4MiB", "models.0.device=cpu"])
    registry = load_registry(config)
    plan = plan_model(config.models[0], registry, ignore_progress)
    ready = build_engine(plan, registry, ignore_progress).ready_message()
    assert ready.num_pages == plan.settings.num_pages
    assert ready.page_size == plan.settings.page_size
    assert ready.vocab_size == plan.shape.vocab_size
    # A kernel may round a page up, or keep a spare one; it may not take another size.
    assert plan.memory.cache <= ready.report["cache_bytes"] <= plan.memory.cache * 1.05
    assert ready.report["kernels"] == {choice.op: choice.kernel for choice in plan.kernels}


def test_auto_takes_a_share_of_what_is_free(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "measure_available", lambda device: 64 * MIB)
    plan = make_plan(made, "cache.memory=auto", "scheduler.max_sequences=4000",
                     "scheduler.max_batch_tokens=4000")  # fmt: skip
    room = (64 * MIB - plan.memory.weights - plan.memory.workspace) / 4
    page = 16 * plan.memory.kv_per_token
    assert room - page < plan.memory.cache <= room
    assert plan.memory.available == 64 * MIB


@pytest.mark.parametrize("memory", ["auto", "16MiB"])
def test_what_does_not_fit_is_refused_with_the_sum(
    made: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "measure_available", lambda device: MIB)
    with pytest.raises(ConfigError, match=r"not enough memory on cpu: weights .* = .* available"):
        make_plan(made, f"cache.memory={memory}")


def test_a_measured_step_sizes_the_cache_anew(made: Path) -> None:
    plan = make_plan(made, "scheduler.max_sequences=4000", "scheduler.max_batch_tokens=4000")
    memory = resources.fit_cache(plan, weights=5 * MIB, workspace=4 * MIB, free=20 * MIB)
    page = 16 * plan.memory.kv_per_token
    assert 4 * MIB - page < memory.cache <= 4 * MIB  # a quarter of what the step leaves
    assert memory.cache % page == 0
    assert (memory.weights, memory.workspace) == (5 * MIB, 4 * MIB)
    few = make_plan(made, "scheduler.max_sequences=1")
    memory = resources.fit_cache(few, weights=0, workspace=0, free=2**40)
    assert memory.cache == few.memory.cache  # no more than its sequences can fill


def test_a_measured_step_that_leaves_too_little_is_refused_with_the_sum(made: Path) -> None:
    message = r"weights 5.0 MiB \+ cache 0.* \+ workspace 30.0 MiB .* of 25.0 MiB .*; set a smaller"
    with pytest.raises(ConfigError, match=message):
        resources.fit_cache(make_plan(made), weights=5 * MIB, workspace=30 * MIB, free=20 * MIB)


def test_a_device_that_runs_out_while_loading_is_told_with_the_sum(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("llmplug.engine.loading.load_weights", run_out)
    plan = make_plan(made)
    registry = load_registry(from_source(str(made)))
    with pytest.raises(ConfigError, match=r"not enough memory on cpu: weights .* = .*; set a"):
        build_engine(plan, registry, ignore_progress)


def test_steps_are_launched_ahead_where_the_config_says_so(made: Path) -> None:
    """With the kernels that this machine has: the same tokens, one step later."""
    registry = load_registry(from_source(str(made)))
    told = []
    for wanted, chosen in (("auto", "in turn"), ("false", "in turn"), ("true", "ahead")):
        plan = make_plan(made, f"scheduler.launch_ahead={wanted}", "scheduler.max_sequences=8")
        assert choice_of(plan, "launch of steps")[0] == chosen
        engine = build_engine(plan, registry, ignore_progress)
        assert isinstance(engine, Engine)
        for number in range(3):
            prompt = [5 + number] * (3 + number)
            sampling = SamplingParams(temperature=0.5 * number, seed=1, max_tokens=12 + number)
            request = GenerateRequest(request_id=str(number), prompt_ids=prompt, sampling=sampling)
            engine.add(request)
        deltas = [engine.step().deltas]
        while engine.has_work:
            deltas.append(engine.step().deltas)
        assert bool(deltas[0]) == (chosen == "in turn")
        told.append(sorted((d.request_id, tuple(d.token_ids)) for step in deltas for d in step))
    assert told[0] == told[1] == told[2]


def test_a_cache_that_holds_no_whole_sequence_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 8192  # 2 MiB in float32
    (folder / "config.json").write_text(json.dumps(config))
    exact = "cache.dtype=float32"
    with pytest.raises(ConfigError, match="at least one sequence of 8192 tokens"):
        make_plan(folder, exact, "cache.memory=1MiB")
    assert make_plan(folder, exact, "cache.memory=2MiB").settings.num_pages * 16 == 8192
    make_plan(folder, exact, "cache.memory=1MiB", "context_length=4096")


def test_what_is_free_is_measured() -> None:
    total = Path("/proc/meminfo")
    if not total.exists():
        pytest.skip("no /proc")
    kib = int(total.read_text().splitlines()[0].split()[1])
    assert 0 < resources.measure_available("cpu") <= kib * 1024


def test_bytes_as_people_read_them() -> None:
    sizes = [0, 1023, 1024, 1536 * 1024, 5 * 2**30]
    assert [format_bytes(size) for size in sizes] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.00 GiB"]  # fmt: skip


# --- device, numbers, context -------------------------------------------------------------------
def test_settings_are_followed_and_the_reason_is_told(made: Path) -> None:
    plan = make_plan(made, "dtype=bfloat16", "context_length=100")
    assert (plan.device, plan.dtype, plan.settings.context_length) == ("cpu", "bfloat16", 100)
    assert plan.settings.cache_dtype == "bfloat16"
    assert make_plan(made, "cache.dtype=float32").settings.cache_dtype == "float32"
    assert make_plan(made, "cache.dtype=fp8").settings.cache_dtype == "float8_e4m3fn"
    assert choice_of(plan, "dtype") == ("bfloat16", "the config says so")
    assert choice_of(plan, "context length")[0] == "100"
    assert "256" in choice_of(plan, "context length")[1]


def test_a_cpu_computes_in_float32_unless_told(made: Path) -> None:
    plan = make_plan(made)
    assert (plan.dtype, plan.settings.context_length) == ("float32", 256)


def test_a_format_that_the_kernel_does_not_keep_is_refused_before_loading(made: Path) -> None:
    with pytest.raises(KernelInputError, match="int4"):
        make_plan(made, "weights.format=int4")
    with pytest.raises(KernelInputError, match=r"weights.format is int8, but .* in float32"):
        make_plan(made, "weights.format=int8", "kernels.block=[avx2,onednn]")


def test_downloads_lie_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "llmplug"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_dir() == Path.home() / ".cache" / "llmplug"


def test_sampler_fields_are_those_of_the_plugins(made: Path) -> None:
    fields = sampler_fields(load_registry(from_source(str(made))))
    assert {"temperature", "top_p", "top_k", "min_p", "logit_bias"} <= fields


def test_a_plan_reads_headers_alone(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> torch.Tensor:
        raise AssertionError("a weight is read")

    kind = type(next(iter(make_plan(made).checkpoint.tensors.values())))
    monkeypatch.setattr(kind, "load", fail)
    make_plan(made)
