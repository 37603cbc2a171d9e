"""Plans of tiny checkpoints, and what is said of them."""

from __future__ import annotations

from pathlib import Path

from llmplug.assemble import load_registry, plan_model
from llmplug.config import from_source
from llmplug.plan import ModelPlan


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Tests draw no bars."""


def make_plan(folder: Path, *sets: str) -> ModelPlan:
    """Plan a folder for the CPU; `sets` are keys of its model."""
    fixed = ("device=cpu", "cache.memory=4MiB", *sets)
    config = from_source(str(folder), sets=[f"models.0.{each}" for each in fixed])
    return plan_model(config.models[0], load_registry(config), ignore_progress)


def choice_of(plan: ModelPlan, topic: str) -> tuple[str, str]:
    """Return what was chosen, and why."""
    (found,) = [(line.chosen, line.why) for line in plan.report() if line.topic == topic]
    return found
