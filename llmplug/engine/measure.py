"""What the largest step takes of a device's memory, found by running it once.

Legend: S sequences, T packed tokens.
"""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import torch

from llmplug.engine.runner import Runner
from llmplug.engine.scheduler import Schedule
from llmplug.engine.sequence import Sequence
from llmplug.types import GenerateRequest, SamplingParams

if TYPE_CHECKING:
    from llmplug.engine.settings import EngineSettings
    from llmplug.ops import KernelTable
    from llmplug.specs import Model, ModelShape


class MemoryMeter(Protocol):
    """Bytes of one device."""

    def reset(self) -> int:
        """Return what is held now; the peak counts from here on."""

    def read_peak(self) -> int:
        """Return the most that was held since `reset`."""


class CudaMeter:
    """What torch's allocator tells."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reset(self) -> int:
        """Return what is held now; the peak counts from here on."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()  # of loading
        torch.cuda.reset_peak_memory_stats(self._device)
        return torch.cuda.memory_allocated(self._device)

    def read_peak(self) -> int:
        """Return the most that was held since `reset`."""
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device)


def measure_workspace(
    model: Model,
    shape: ModelShape,
    ops: KernelTable,
    settings: EngineSettings,
    device: torch.device,
    meter: MemoryMeter,
) -> int:
    """Return the bytes that a full step needs beside weights and cache.

    It has chunks of as many tokens as a step may have, a cache for just these, and logits for as
    many rows as there may be sequences, twice, as samplers copy them.
    """
    schedule, num_pages = _make_largest(settings)
    runner = Runner(model, shape, ops, replace(settings, num_pages=num_pages), device)
    held = meter.reset()
    with torch.inference_mode():
        hidden_TD = runner.run(schedule)
        num_rows = min(settings.max_sequences, len(hidden_TD))
        logits_SV = runner.compute_logits(hidden_TD, list(range(num_rows)))
        copy_SV = logits_SV.clone()
        del copy_SV
    return meter.read_peak() - held


def _make_largest(settings: EngineSettings) -> tuple[Schedule, int]:
    """Return a step of as many tokens as there may be, and the pages that it needs."""
    schedule, num_pages, num_left = Schedule(), 0, settings.max_batch_tokens
    while num_left:
        count = min(num_left, settings.prefill_chunk, settings.context_length)
        request = GenerateRequest(
            request_id="", prompt_ids=[0] * count, sampling=SamplingParams(max_tokens=1)
        )
        sequence = Sequence(request, 0, seed=0, eos_token_ids=frozenset(), arrival=0)
        sequence.pages = array("i", range(num_pages, num_pages + -(-count // settings.page_size)))
        num_pages += len(sequence.pages)
        schedule.add(sequence, count)
        num_left -= count
    return schedule, num_pages
