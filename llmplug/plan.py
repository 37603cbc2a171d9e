"""A model's plan: every choice made for it and why, before a weight is read.

`assemble.py` makes plans; `llmplug check` prints them. A server makes the halves where they are
followed: a `TextPlan` itself, which needs no torch, an `EnginePlan` in the engine process, which
has the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmplug.cache_scales import ScaleNames
    from llmplug.chat.channels import Dialect
    from llmplug.chat.render import ChatRenderer
    from llmplug.chat.tokenizer import Tokenizer
    from llmplug.config import ModelConfig
    from llmplug.engine.settings import EngineSettings
    from llmplug.ops import KernelChoice, TuningTable
    from llmplug.pooling import Pooling
    from llmplug.specs import Checkpoint, ModelShape, ModelSpec, Task

GIB = 2**30
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Where the memory of an engine goes, in bytes.

    Weights and workspace are computed from headers and shapes; on a GPU, once it has loaded the
    weights, measured.
    """

    weights: int
    kv_per_token: int
    cache: int  # pages x page size x kv_per_token
    workspace: int  # logits of a full batch, activations of a full step
    available: int  # on the device, before the start

    @property
    def total(self) -> int:
        """All of it together."""
        return self.weights + self.cache + self.workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which part of the machine an engine takes, beside the other replicas of its model."""

    first_device: int = 0  # of its GPUs; a rank's own
    rank: int = 0  # of those that compute the model together
    num_pages: int | None = None  # of the cache, where rank 0 has planned it; None: it is planned
    host_bytes: int | None = None  # memory that it may count on where the CPU computes; None: all


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One line of the report: what was chosen, and why."""

    topic: str
    chosen: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRules:
    """How long a sequence may be, what ends it, and how it is sampled where nobody says.

    Chosen with the tokenizer at hand and followed by the engine, which has none.
    """

    context_length: int  # tokens, prompt and answer together
    end_ids: frozenset[int]
    sampling_defaults: Mapping[str, float]  # by request field


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model's files, opened: headers are read, weights are not."""

    path: Path
    checkpoint: Checkpoint
    model: ModelSpec  # the architecture that the config of the checkpoint names
    shape: ModelShape
    task: Task = "generate"
    pooling: Pooling | None = None  # of a model that makes vectors

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of a classifier's labels, in the order of its scores."""
        names = self.checkpoint.config.get("id2label") or {}
        return tuple(str(names[key]) for key in sorted(names, key=int))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPlan:
    """The half that turns text into tokens and back; chosen from files alone."""

    config: ModelConfig
    files: ModelFiles
    rules: SequenceRules
    tokenizer: Tokenizer
    renderer: ChatRenderer | None  # None: no chat template
    dialect: Dialect
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """The half that runs tokens through the model; chosen where the device is."""

    config: ModelConfig
    path: Path
    checkpoint: Checkpoint
    model: ModelSpec
    shape: ModelShape
    device: str
    dtype: str  # torch's name: "float32"
    kernels: tuple[KernelChoice, ...]
    tuning: TuningTable | None  # None: kernels take their default sizes
    settings: EngineSettings
    memory: MemoryPlan
    task: Task
    pooling: Pooling | None  # None: it generates
    choices: tuple[Choice, ...]
    place: Place = Place()
    scales: tuple[ScaleNames, ...] = ()  # of each layer's cache; empty: it has none

    @property
    def num_ranks(self) -> int:
        """Processes that compute it together."""
        return self.config.parallel.tensor

    @property
    def name(self) -> str:
        """What requests call the model."""
        return self.config.name

    def report(self) -> list[Choice]:
        """Return every choice, in the order in which they were made."""
        return [
            *self.choices,
            *_rank_lines(self),
            *_kernel_lines(self.kernels),
            *_memory_lines(self),
            *_replica_lines(self),
        ]

    def as_json(self) -> Mapping[str, Any]:
        """Return the report as plain values."""
        return {
            "name": self.name,
            "choices": [
                {"topic": line.topic, "chosen": line.chosen, "why": line.why}
                for line in self.report()
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan(EnginePlan):
    """Both halves: everything needed to build one model's engine and its chat side."""

    tokenizer: Tokenizer
    renderer: ChatRenderer | None  # None: no chat template
    dialect: Dialect


def _kernel_lines(kernels: tuple[KernelChoice, ...]) -> list[Choice]:
    lines = []
    for choice in kernels:
        refused = "; ".join(f"{name} refused: {reason}" for name, reason in choice.refused)
        if choice.plugin is not None:
            why = f"plugin {choice.plugin}" + (f"; {refused}" if refused else "")
        else:
            why = refused or "no installed plugin offers another"
        lines.append(Choice(topic=f"kernel {choice.op}", chosen=choice.kernel, why=why))
    return lines


def _memory_lines(plan: EnginePlan) -> list[Choice]:
    memory, settings = plan.memory, plan.settings
    tokens = settings.num_pages * settings.page_size
    return [
        Choice(topic="memory weights", chosen=format_bytes(memory.weights), why=plan.dtype),
        Choice(
            topic="memory cache",
            chosen=format_bytes(memory.cache),
            why=f"{tokens} tokens x {format_bytes(memory.kv_per_token)} a token, "
            f"{settings.num_pages} pages of {settings.page_size}",
        ),
        Choice(
            topic="memory workspace",
            chosen=format_bytes(memory.workspace),
            why=f"logits of {settings.max_sequences} sequences, "
            f"activations of {settings.max_batch_tokens} tokens",
        ),
        Choice(
            topic="memory sum",
            chosen=format_bytes(memory.total),
            why=f"of {format_bytes(memory.available)} available on {plan.device}",
        ),
    ]


def _rank_lines(plan: EnginePlan) -> list[Choice]:
    if plan.num_ranks == 1:
        return []
    where = "a GPU" if plan.device == "cuda" else "its share of the CPU's threads"
    heads = ", ".join(sorted({str(layer.num_kv_heads) for layer in plan.shape.layers}))
    why = (
        f"the config says so: a process each, with {where} and {heads} key/value heads of every "
        "layer; memory below is that of one"
    )
    nodes = plan.config.parallel.nodes
    chosen = f"{plan.num_ranks}, on {nodes} nodes" if nodes > 1 else str(plan.num_ranks)
    return [Choice(topic="ranks", chosen=chosen, why=why)]


def _replica_lines(plan: EnginePlan) -> list[Choice]:
    replicas = plan.config.replicas
    if replicas == 1:
        return []
    num_processes = replicas * plan.num_ranks
    total, available = (
        format_bytes(num_processes * each) for each in (plan.memory.total, plan.memory.available)
    )
    why = f"{num_processes} x the sum above"
    if plan.device != "cuda":
        why += f", of {available} available on the CPU, which they share"
    return [
        Choice(topic="replicas", chosen=str(replicas), why="the config says so"),
        Choice(topic="memory of all replicas", chosen=total, why=why),
    ]


def format_bytes(count: int) -> str:
    """Write a number of bytes as people read it: `98.4 MB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
