"""Attention over the engine's pages, at the place where transformers lets others in.

Legend: T packed tokens, N query heads, K key/value heads, H head width, V width of values.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from transformers import AttentionInterface

from llmplug import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from llmplug.ops import AttentionBatch, KVCache

NAME = "llmplug"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of attention in a forward pass: what it needs of a cache."""

    num_kv_heads: int
    head_width: int
    window: int | None


@dataclass(slots=True)
class Step:
    """A forward pass under way: whose keys are where, and how many calls were made."""

    attention: Any  # the op
    caches: Sequence[KVCache]
    batch: AttentionBatch
    num_calls: int = 0

    def attend(
        self,
        q_TNH: torch.Tensor,
        k_TKH: torch.Tensor,
        v_TKV: torch.Tensor,
        **how: Any,
    ) -> torch.Tensor:
        """Store and attend: out_TNV. Calls come in the same order in every pass."""
        cache = self.caches[self.num_calls]
        self.num_calls += 1
        value_width = v_TKV.shape[-1]
        v_TKH = F.pad(v_TKV, (0, k_TKH.shape[-1] - value_width))
        self.attention.store(cache, k_TKH.contiguous(), v_TKH.contiguous(), self.batch.slots_T)
        out_TNH: torch.Tensor = self.attention.attend(q_TNH.contiguous(), cache, self.batch, **how)
        return out_TNH[..., :value_width]


@dataclass(slots=True)
class Trial:
    """A forward pass without numbers: it writes down what calls there are."""

    calls: list[Call] = field(default_factory=list)

    def attend(
        self,
        q_TNH: torch.Tensor,
        k_TKH: torch.Tensor,
        v_TKV: torch.Tensor,
        *,
        window: int | None,
        **_: Any,
    ) -> torch.Tensor:
        """Note what this call needs."""
        width, value_width = k_TKH.shape[-1], v_TKV.shape[-1]
        if value_width > width or q_TNH.shape[1] % k_TKH.shape[1]:
            raise CheckpointError(
                f"its attention has {q_TNH.shape[1]} heads of {width} and values of {value_width}"
            )
        self.calls.append(Call(k_TKH.shape[1], width, window))
        return v_TKV.new_empty(*q_TNH.shape[:2], value_width)


_current: ContextVar[Step | Trial] = ContextVar("llmplug_transformers_step")


@contextmanager
def running(step: Step | Trial) -> Iterator[None]:
    """Let all attention within go to `step`."""
    token = _current.set(step)
    try:
        yield
    finally:
        _current.reset(token)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Take the place of transformers' attention; tensors are [1, heads, T, width]."""
    is_causal = others.get("is_causal")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise CheckpointError("its attention looks ahead")
    if attention_mask is not None:
        raise CheckpointError("its attention has a mask of its own")
    del dropout  # of training
    out_TNV = _current.get().attend(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        soft_cap=softcap,
        sinks_N=s_aux,
    )
    return out_TNV[None], None


AttentionInterface.register(NAME, _attend)
