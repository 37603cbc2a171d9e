"""Samplers, and what they see of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

Stage = Literal["bias", "scale", "filter", "choose"]


@dataclass(slots=True)
class SamplerRow:
    """One sequence, as a sampler sees it. Read only, but for `next_state`."""

    params: Any  # instance of the spec's `params`
    prompt_ids: Sequence[int]
    output_ids: Sequence[int]
    seed: int  # of this sequence
    position: int  # of the token to be chosen, counted from the start of the prompt
    state: Any = None  # what this sampler last kept for this sequence; None: nothing yet
    # What to keep for the next token; None: `state` as it is. It counts only if the step's tokens
    # are all chosen, as a step that fails is sampled again; and it stays with the sequence when it
    # is preempted. A state is never changed in place: beams that part ways share it.
    next_state: Any = None

    def seen_ids(self) -> Iterator[int]:
        """Prompt, then output."""
        yield from self.prompt_ids
        yield from self.output_ids


class LogitsSampler(Protocol):
    """Stages bias, scale and filter: changes logits in place; -inf forbids a token."""

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Edit float32 logits; row r of the tensor belongs to `rows[r]`, and to it alone."""


class ChoosingSampler(Protocol):
    """Stage choose: picks one token a row."""

    def choose(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> torch.Tensor:
        """Return ids_R, int64. The same row gives the same id alone and in any batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSpec:
    """One sampler.

    Within a step samplers run by stage (bias, scale, filter, choose), then by `order`, then by
    name, unless a request says which run in which order. A sampler sees only the rows for which
    `is_active(params)`; in the last stage the first active one takes the row.

    Attributes:
        name: of the sampler.
        stage: `bias` adds to logits, `scale` multiplies, `filter` forbids tokens, `choose` picks.
        params: pydantic model with a neutral default for every field. Field names are request
            fields: a name that the core does not know becomes one.
        is_active: whether these parameters change anything.
        make: (vocab_size, device, ops) -> LogitsSampler, or ChoosingSampler for stage `choose`.
            One that fuses others may be None: not on this device.
        reads_vocabulary: `make` gets a fourth argument, () -> `llmplug.grammar.Vocabulary`, to be
            called when it is first needed: it takes a moment, and a step waits.
        order: place within the stage; lower runs earlier.
        reads_history: whether it reads `output_ids` or keeps a state. One that does not can choose
            a token on the device before the host knows the one before it.
        takes_pending: nor need one wait that reads `output_ids`, keeps no state, and takes a third
            argument: of each row the token that is chosen and not in `output_ids` yet, int64 on the
            device, -1 where there is none; None: no row has one.
        fuses: names of samplers that this one does in one go: where a row needs some of them, one
            right after the other in this order and the last of this one's stage, it runs in their
            place. Nobody asks for it by name, and `is_active` is not asked.
        fuse: for `fuses`: {name: its parameters} of those that it stands for -> its own.
    """

    name: str
    stage: Stage
    params: type[BaseModel]
    is_active: Callable[[Any], bool]
    make: Callable[..., Any]
    order: int = 0
    reads_history: bool = True
    takes_pending: bool = False
    fuses: tuple[str, ...] = ()
    fuse: Callable[[Mapping[str, Any]], Any] | None = None
    reads_vocabulary: bool = False
