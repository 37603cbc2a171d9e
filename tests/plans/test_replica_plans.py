"""What each replica of a model gets of a machine, and what is said of all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmplug import LLM, ConfigError, resources
from llmplug.config import from_source
from llmplug.plan import MIB, Place, format_bytes
from tests.plans.tiny_plans import choice_of, ignore_progress, make_plan


def test_replicas_divide_memory_and_threads(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "measure_available", lambda device: 96 * MIB)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    alone = make_plan(made, "cache.memory=auto", "scheduler.max_sequences=4000",
                      "scheduler.max_batch_tokens=4000")  # fmt: skip
    plan = make_plan(made, "cache.memory=auto", "scheduler.max_sequences=4000",
                     "scheduler.max_batch_tokens=4000", "replicas=3")  # fmt: skip
    assert plan.memory.available == 32 * MIB
    room = (32 * MIB - plan.memory.weights - plan.memory.workspace) / 4
    assert room - 16 * plan.memory.kv_per_token < plan.memory.cache <= room
    assert choice_of(plan, "replicas")[0] == "3"
    total, why = choice_of(plan, "memory of all replicas")
    assert total == format_bytes(3 * plan.memory.total)
    assert "3 x the sum above, of 96.0 MiB available" in why
    assert [line.topic for line in alone.report() if "replicas" in line.topic] == []
    places = resources.place_replicas(plan.config)
    assert places == [Place(first_device=i, host_bytes=32 * MIB) for i in range(3)]
    assert resources.share_threads(plan.config) == 2
    assert resources.share_threads(make_plan(made, "replicas=3", "threads=3").config) == 1
    assert resources.share_threads(alone.config) is None


def test_a_machine_must_hold_all_replicas(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make_plan(made).memory.total
    monkeypatch.setattr(resources, "measure_available", lambda device: int(2.5 * one))
    assert make_plan(made, "replicas=2").memory.total == one
    with pytest.raises(ConfigError, match="not enough memory on cpu"):
        make_plan(made, "replicas=3")


def test_each_replica_needs_a_gpu(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")

    def choose(*sets: str) -> str:
        config = from_source(str(made), sets=[f"models.0.{each}" for each in sets])
        return resources.choose_device(config.models[0]).chosen

    assert choose("replicas=2") == "cuda"
    assert choose("replicas=3", "device=cpu") == "cpu"
    for device in ("auto", "cuda"):
        with pytest.raises(ConfigError, match="torch finds 2"):
            choose("replicas=3", f"device={device}")


def test_an_engine_in_ones_own_process_is_one(made: Path) -> None:
    config = from_source(str(made), sets=["models.0.replicas=2"])
    with pytest.raises(ConfigError, match="replicas"):
        LLM(config, progress=ignore_progress)
