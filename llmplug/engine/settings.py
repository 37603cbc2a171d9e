"""The numbers an engine is built with; chosen in `assemble.py`, printed by `llmplug check`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmplug.engine.limits import RequestLimits
from llmplug.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Sizes of a step and of the cache, and what requests fall back to.

    Raises:
        ConfigError: a size is not positive, or a step cannot hold a token of each sequence.
    """

    vocab_size: int  # width of the logits
    context_length: int  # prompt + generated tokens of one sequence
    num_pages: int  # pages of the KV cache, in all
    page_size: int = 16  # tokens of a page
    max_batch_tokens: int = 512  # tokens of a step
    max_sequences: int = 64  # sequences that run at once
    prefill_chunk: int = 256  # prompt tokens of one sequence in a step, at most
    # What a step may take that has prompts beside decodes; None: as `step_budget` finds right.
    inter_token_ms: float | None = None
    cache_dtype: str = "float32"  # torch's name
    is_prefix_cached: bool = True  # whether prompts share pages with earlier ones
    eos_token_ids: frozenset[int] = frozenset()
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict)  # SamplingParams fields

    def __post_init__(self) -> None:
        sizes = (
            "vocab_size",
            "context_length",
            "num_pages",
            "page_size",
            "max_batch_tokens",
            "max_sequences",
            "prefill_chunk",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.inter_token_ms is not None and not self.inter_token_ms > 0:
            raise ConfigError(f"inter_token_ms is {self.inter_token_ms}; it must be above 0")
        if self.max_batch_tokens < self.max_sequences:
            raise ConfigError(
                f"max_batch_tokens ({self.max_batch_tokens}) is below max_sequences "
                f"({self.max_sequences}): a step must hold a token of each running sequence"
            )

    @property
    def limits(self) -> RequestLimits:
        """What a request to this engine may ask for."""
        return RequestLimits(
            vocab_size=self.vocab_size,
            context_length=self.context_length,
            num_cache_tokens=self.num_pages * self.page_size,
            sampling_defaults=self.sampling_defaults,
        )
