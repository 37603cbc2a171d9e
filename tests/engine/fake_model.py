"""A model whose next token is a known function of all tokens before it, read from the cache.

A wrong slot, page, position or length changes the sum, and so the token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from llmplug import EngineError, GenerateRequest, LayerCache, ModelShape, SamplingParams
from llmplug.engine.engine import Engine
from llmplug.engine.graphs import GraphRunner
from llmplug.engine.settings import EngineSettings
from llmplug.grammar import GrammarBackend, Vocabulary
from llmplug.ops import AttentionBatch, KernelTable, KVCache, choose_tokens
from llmplug.types import FinishReason, SequenceDelta
from llmplug_standard import llmplug_samplers

VOCAB_SIZE = 97
EOS_ID = 96
SHAPE = ModelShape(
    vocab_size=VOCAB_SIZE,
    context_length=512,
    num_layers=1,
    width=VOCAB_SIZE,
    layers=(LayerCache(num_kv_heads=1, head_width=2),),
)


class FakeAttention:
    """One flat row a slot: (token id, position)."""

    def allocate(self, num_pages, page_size, num_kv_heads, head_width, *, device, dtype) -> KVCache:
        entries = torch.full((num_pages * page_size, 2), -1, device=device, dtype=dtype)
        return KVCache(key=entries, value=entries, page_size=page_size)


OPS = KernelTable({"attention": FakeAttention(), "choose_tokens": choose_tokens})
CPU = torch.device("cpu")


def next_token(token_ids: Sequence[int]) -> int:
    """What the fake model continues with; never the end-of-sequence id but on purpose."""
    total = sum((i + 1) * (token_id + 3) for i, token_id in enumerate(token_ids))
    return (total * 31 + 7) % VOCAB_SIZE


def expected_output(prompt_ids: Sequence[int], count: int, eos_id: int | None = None) -> list[int]:
    """Greedy output, its end-of-sequence id included."""
    token_ids = list(prompt_ids)
    for _ in range(count):
        token_ids.append(next_token(token_ids))
        if token_ids[-1] == eos_id:
            break
    return token_ids[len(prompt_ids) :]


class FakeModel:
    """Stores (token id, position) in each slot; the hidden state is a row of logits."""

    def __init__(self) -> None:
        self.failing_ids: set[int] = set()  # a step that has one of these raises
        self.nan_ids: set[int] = set()  # a token that gives NaN
        self.num_tokens = 0  # computed, in all

    def forward(
        self,
        token_ids_T: torch.Tensor,
        positions_T: torch.Tensor,
        caches: Sequence[KVCache],
        attention: AttentionBatch,
    ) -> torch.Tensor:
        if self.failing_ids & set(token_ids_T.tolist()):
            raise RuntimeError("this step fails")
        (cache,) = caches
        self.num_tokens += len(token_ids_T)
        is_there_T = attention.slots_T >= 0
        tokens = torch.stack([token_ids_T, positions_T], dim=-1).float()
        cache.key[attention.slots_T[is_there_T]] = tokens[is_there_T]
        hidden = torch.zeros(len(token_ids_T), VOCAB_SIZE)
        starts = attention.query_starts_S1.tolist()
        assert attention.cached_lens == tuple(attention.cached_lens_S.tolist())
        assert all(n == 1 for n in attention.query_lens[: attention.num_decodes])
        assert all(n > 1 for n in attention.query_lens[attention.num_decodes :])
        for s, (num_new, length) in enumerate(
            zip(attention.query_lens, attention.cached_lens, strict=True)
        ):
            if length == 0:  # padding
                assert attention.slots_T[starts[s]] == -1
                continue
            seen = self._read(cache, attention.block_table_SM[s], length)
            past = length - num_new
            rows = slice(starts[s], starts[s] + num_new)
            assert positions_T[rows].tolist() == list(range(past, length))
            hidden[rows] = torch.stack([self._logits(seen[: past + i + 1]) for i in range(num_new)])
        return hidden

    def _read(self, cache: KVCache, pages_M: torch.Tensor, length: int) -> list[int]:
        positions = torch.arange(length)
        slots = pages_M[positions // cache.page_size].long() * cache.page_size
        slots += positions % cache.page_size
        keys = cache.key[slots]
        assert keys[:, 1].tolist() == positions.tolist(), "a slot holds another position"
        return [int(token_id) for token_id in keys[:, 0]]

    def _logits(self, seen: list[int]) -> torch.Tensor:
        if seen[-1] in self.nan_ids:
            return torch.full((VOCAB_SIZE,), float("nan"))
        logits = torch.arange(VOCAB_SIZE).mul_(sum(seen) + 1).remainder_(VOCAB_SIZE) / VOCAB_SIZE
        logits[next_token(seen)] = 5.0
        return logits

    def compute_logits(self, hidden_SD: torch.Tensor) -> torch.Tensor:
        return hidden_SD.clone()


def make_settings(**changes: Any) -> EngineSettings:
    defaults: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "context_length": 256,
        "num_pages": 64,
        "page_size": 4,
        "max_batch_tokens": 32,
        "max_sequences": 16,
        "prefill_chunk": 16,
    }
    return EngineSettings(**{**defaults, **changes})


def make_engine(
    model: FakeModel | None = None,
    samplers: Iterable[Any] = (),
    open_grammars: Callable[[], GrammarBackend] | None = None,
    read_vocabulary: Callable[[], Vocabulary] | None = None,
    graphs: GraphRunner | None = None,
    **changes: Any,
) -> Engine:
    """An engine over the fake model, with the standard samplers and perhaps more."""
    return Engine(
        model or FakeModel(),
        SHAPE,
        OPS,
        [*llmplug_samplers(), *samplers],
        make_settings(**changes),
        CPU,
        open_grammars=open_grammars,
        read_vocabulary=read_vocabulary,
        graphs=graphs,
    )


def make_request(request_id: str, prompt_ids: Sequence[int], **changes: Any) -> GenerateRequest:
    """A greedy request of 8 tokens, unless said otherwise."""
    outer = {
        name: changes.pop(name)
        for name in ("num_sequences", "priority", "cache_salt", "tenant", "grammar")
        if name in changes
    }
    sampling = SamplingParams(**{"temperature": 0.0, "max_tokens": 8, **changes})
    return GenerateRequest(
        request_id=request_id, prompt_ids=list(prompt_ids), sampling=sampling, **outer
    )


def drain(engine: Engine, max_steps: int = 2000) -> dict[tuple[str, int], list[SequenceDelta]]:
    """Step until nothing is left; the deltas of each sequence, which must end exactly once."""
    found: dict[tuple[str, int], list[SequenceDelta]] = {}
    for _ in range(max_steps):
        if not engine.has_work:
            break
        for delta in engine.step().deltas:
            found.setdefault((delta.request_id, delta.index), []).append(delta)
    else:
        raise EngineError("the engine makes no progress")
    for deltas in found.values():
        assert [d.finish_reason is not None for d in deltas] == [False] * (len(deltas) - 1) + [True]
    return found


def output_of(deltas: Iterable[SequenceDelta]) -> list[int]:
    return [token_id for delta in deltas for token_id in delta.token_ids]


def finish_of(deltas: Sequence[SequenceDelta]) -> FinishReason | None:
    return deltas[-1].finish_reason


def assert_is_empty(engine: Engine) -> None:
    """Nothing runs, waits, or holds a page."""
    stats = engine.stats
    assert (stats.num_running, stats.num_waiting, stats.num_pages_used) == (0, 0, 0)
    assert not engine.has_work
