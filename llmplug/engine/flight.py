"""A step from its launch to the moment when the host knows its tokens: at once, or a step later.

Legend: S sequences that a token is chosen for, D model width, T packed tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    import torch

    from llmplug.engine.grammar_masks import Masks
    from llmplug.engine.scheduler import Schedule
    from llmplug.engine.sequence import Sequence
    from llmplug.types import GenerateRequest, TokenLogprob


@dataclass(slots=True)
class Forward:
    """What a forward pass gave, and for whom tokens can be chosen now; `error` if it raised."""

    hidden_TD: torch.Tensor | None = None
    logits_SV: torch.Tensor | None = None
    sequences: list[Sequence] = field(default_factory=list)  # S of them
    places: list[int] = field(default_factory=list)  # of these S in the schedule
    rows: list[int] = field(default_factory=list)  # of these S in hidden_TD
    masks: Future[Masks] | None = None  # for those of the S that have a grammar
    error: Exception | None = None

    @property
    def is_free(self) -> bool:
        """Whether all that get a token can go on before the host knows it."""
        return not any(sequence.needs_host for sequence in self.sequences)


@dataclass(slots=True)
class Sample:
    """What a step found for one sequence; no token while its prompt is not done."""

    token_id: int | None = None
    logprob: TokenLogprob | None = None
    error: Exception | None = None


@dataclass(slots=True)
class Flight:
    """A step that is launched."""

    schedule: Schedule
    forward: Forward
    started_s: float  # by the clock of the engine
    samples: list[Sample] = field(default_factory=list)  # of each in the schedule, if it landed
    # Waits for ids_S and whether they are good, int64 (2, S); None: it landed at once.
    fetch: Callable[[], torch.Tensor] | None = None

    @property
    def is_late(self) -> bool:
        """Whether its tokens are known a step later."""
        return self.fetch is not None


def needs_host(request: GenerateRequest, *, has_history: bool) -> bool:
    """Say whether each token of a request waits until the host knows the last one.

    Grammars and thinking budgets follow the output, bad words and samplers with a history read it,
    and log-probabilities are made of what the host reads. Penalties are told what is pending.

    Args:
        has_history: of the request's samplers.
    """
    sampling = request.sampling
    return bool(
        has_history
        or request.grammar
        or request.thinking
        or sampling.bad_words
        or sampling.logprobs is not None
        or sampling.prompt_logprobs is not None
    )
