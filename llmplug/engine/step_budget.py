"""How many prompt tokens a step computes: all that fit, unless something decodes meanwhile.

While something decodes, a step may take `inter_token_ms`: that long does everybody wait for the
next token. None is `auto`: 50 ms, which is 20 tokens a second, faster than people read; or four
times what the step takes without prompts, where that is more, as on a slow CPU with many at work:
prompts get three quarters of the time then. An answer of as many tokens as its prompt has needs
about half of the time for the prompt; with a share of half, prompts would never catch up with a
burst of requests. Where nothing decodes, only the prompts themselves wait for the step, and they
get what `prefill_chunk` and `max_batch_tokens` allow. So they do while the cost model has seen too
little, and where `inter_token_ms` is infinite: offline.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmplug.engine.cost_model import CostModel
    from llmplug.engine.scheduler import Schedule
    from llmplug.engine.sequence import Sequence
    from llmplug.engine.settings import EngineSettings

AUTO_S = 0.05
AUTO_RATIO = 4.0
# Prompt tokens of each step that are computed whatever it takes, so that no prompt starves.
MIN_CHUNK = 16


class StepBudget:
    """What one step has left for prompts, once its decodes are scheduled."""

    def __init__(self, settings: EngineSettings, cost: CostModel, schedule: Schedule) -> None:
        self._settings = settings
        self._cost = cost
        self._schedule = schedule
        self._num_left = settings.max_batch_tokens - len(schedule.decodes)
        self._limit_s = math.inf
        if schedule.decodes and cost.is_ready:
            self._limit_s = _limit_step(settings, cost.predict(schedule.work))

    @property
    def has_room(self) -> bool:
        """Whether another prompt can get something of this step."""
        if self._num_left <= 0:
            return False
        return not self._schedule.chunks or self._fit_chunk(0) >= MIN_CHUNK

    def take(self, sequence: Sequence) -> int:
        """Return how many of its missing tokens a sequence gets; 0: the step is full."""
        count = min(sequence.num_missing, self._settings.prefill_chunk, self._num_left)
        fitting = self._fit_chunk(sequence.num_computed)
        if fitting < count:
            floor = 0 if self._schedule.chunks else MIN_CHUNK
            count = min(count, max(floor, self._end_page(sequence.num_computed, int(fitting))))
        self._num_left -= count
        return count

    def _fit_chunk(self, num_cached: int) -> float:
        """Return how many tokens of a prompt the time that is left allows."""
        if self._limit_s == math.inf:
            return math.inf
        left_s = self._limit_s - self._cost.predict(self._schedule.work)
        return self._cost.fit_chunk(num_cached, left_s)

    def _end_page(self, start: int, count: int) -> int:
        """Cut a chunk to the end of a page: a page can be shared as soon as it is full."""
        page_size = self._settings.page_size
        return max(0, (start + count) // page_size * page_size - start)


def _limit_step(settings: EngineSettings, decode_s: float) -> float:
    """Return the seconds that a step may take whose decodes alone take `decode_s`."""
    if settings.inter_token_ms is None:
        return max(AUTO_S, AUTO_RATIO * decode_s)
    return settings.inter_token_ms / 1000
