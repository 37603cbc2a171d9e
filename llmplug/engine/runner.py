"""The caches and the model's forward pass.

Legend: T packed tokens, S rows to choose a token for, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

from llmplug.engine.batch import make_batch, pack_step
from llmplug.engine.caches import allocate_caches
from llmplug.errors import EngineError
from llmplug.ops import send_to_device

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceOf

    from llmplug.engine.batch import Batch
    from llmplug.engine.scheduler import Schedule
    from llmplug.engine.sequence import Sequence
    from llmplug.engine.settings import EngineSettings
    from llmplug.engine.steps import HostStep
    from llmplug.ops import KernelTable
    from llmplug.specs import Model, ModelShape


class RunnerLost(EngineError):
    """The model cannot be called any more, and the engine is of no use."""


class StepRunner(Protocol):
    """What runs an engine's steps."""

    @property
    def cache_bytes(self) -> int:
        """Bytes that the caches hold."""

    def run(self, schedule: Schedule) -> torch.Tensor:
        """Compute a step's tokens, filling their slots of the caches: hidden_TD."""

    def compute_logits(self, hidden_TD: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """Compute float32 logits_SV of some rows of hidden_TD; the caller may edit them."""


class AheadRunner(StepRunner, Protocol):
    """What also runs a step before the host knows the tokens of the last one."""

    def keep(self, sequences: SequenceOf[Sequence], ids_S: torch.Tensor) -> None:
        """Keep chosen tokens on the device, for the step that computes them."""

    def find_pending(self, sequences: SequenceOf[Sequence]) -> torch.Tensor | None:
        """Return the tokens that were chosen and are not known on the host yet: ids_S, int64."""


class Runner:
    """Owns the KV caches of all layers; they live as long as it does."""

    def __init__(
        self,
        model: Model,
        shape: ModelShape,
        ops: KernelTable,
        settings: EngineSettings,
        device: torch.device,
    ) -> None:
        self._model = model
        self._page_size = settings.page_size
        self._device = device
        dtype: torch.dtype = getattr(torch, settings.cache_dtype)
        self._caches = allocate_caches(
            ops,
            shape.layers,
            settings.num_pages,
            settings.page_size,
            device=device,
            dtype=dtype,
        )

    @property
    def cache_bytes(self) -> int:
        """Bytes that the caches hold."""
        return sum(cache.key.nbytes + cache.value.nbytes for cache in self._caches)

    def run(self, schedule: Schedule) -> torch.Tensor:
        """Compute a step's tokens, filling their slots of the caches: hidden_TD."""
        return self.run_step(self.pack(schedule))

    def pack(self, schedule: Schedule) -> Any:
        """Write down what `run_step` needs to know of a step."""
        return pack_step(schedule)

    def run_step(self, step: Any) -> torch.Tensor:
        """Compute what `pack` wrote down, here or in another process."""
        packed: HostStep = step
        return self._forward(make_batch(packed, self._page_size, self._device))

    def _forward(self, batch: Batch) -> torch.Tensor:
        return self._model.forward(
            batch.token_ids_T, batch.positions_T, self._caches, batch.attention
        )

    def compute_logits(self, hidden_TD: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """Compute float32 logits_SV of some rows of hidden_TD; the caller may edit them."""
        if len(rows) == len(hidden_TD):
            return self._model.compute_logits(hidden_TD)
        return self._model.compute_logits(hidden_TD[send_to_device(rows, self._device)])
