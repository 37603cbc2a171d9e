"""The largest step is run once, as it may come, and its peak is what counts."""

from __future__ import annotations

import pytest
import torch
from engine.fake_model import CPU, OPS, SHAPE, FakeModel, make_settings

from llmplug.engine.measure import measure_workspace


class WatchingModel(FakeModel):
    """Notes what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.num_rows = 0  # of logits
        self.query_lens: tuple[int, ...] = ()

    def forward(self, token_ids_T, positions_T, caches, attention):
        self.query_lens = attention.query_lens
        return super().forward(token_ids_T, positions_T, caches, attention)

    def compute_logits(self, hidden_SD: torch.Tensor) -> torch.Tensor:
        self.num_rows = len(hidden_SD)
        return super().compute_logits(hidden_SD)


class FakeMeter:
    """Holds 100 bytes before the step, and 7 a token when it ends."""

    def __init__(self, model: FakeModel) -> None:
        self._model = model
        self.tokens_at_reset = -1

    def reset(self) -> int:
        self.tokens_at_reset = self._model.num_tokens
        return 100

    def read_peak(self) -> int:
        return 100 + 7 * self._model.num_tokens


@pytest.mark.parametrize(
    ("changes", "query_lens", "num_rows"),
    [
        ({"max_batch_tokens": 40, "prefill_chunk": 16, "max_sequences": 12}, (16, 16, 8), 12),
        ({"max_batch_tokens": 33, "prefill_chunk": 16}, (1, 16, 16), 16),
        ({"max_batch_tokens": 24, "prefill_chunk": 24, "context_length": 9}, (9, 9, 6), 16),
    ],
)
def test_the_largest_step_is_measured_over_a_cache_of_its_own(
    changes, query_lens, num_rows
) -> None:
    model = WatchingModel()
    meter = FakeMeter(model)
    settings = make_settings(num_pages=1, **changes)  # whatever the cache will have
    got = measure_workspace(model, SHAPE, OPS, settings, CPU, meter)
    assert got == 7 * settings.max_batch_tokens
    assert meter.tokens_at_reset == 0
    assert model.query_lens == query_lens
    assert model.num_rows == num_rows
