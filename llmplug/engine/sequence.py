"""One sequence: its tokens, its place in the cache, and when it ends."""

from __future__ import annotations

from array import array
from time import perf_counter
from typing import TYPE_CHECKING, Any

from llmplug.engine.thinking import ThinkingClock
from llmplug.engine.token_bans import make_bans
from llmplug.types import FinishReason, GenerateRequest, TokenLogprob

if TYPE_CHECKING:
    from llmplug.engine.beam_group import BeamGroup
    from llmplug.grammar import GrammarState

_UINT64 = 2**64 - 1


class Sequence:
    """One of a request's `num_sequences`; the scheduler and the engine move it along.

    Of its tokens, prompt and output together, the first `num_computed` have their keys and values
    in `pages`. A step computes some more; when it reaches the last, a new token is chosen.
    """

    __slots__ = (
        "arrived_at",
        "bans",
        "beams",
        "digests",
        "grammar",
        "index",
        "is_compiling",
        "is_running",
        "leader",
        "needs_host",
        "num_cached_tokens",
        "num_charged",
        "num_computed",
        "num_pending",
        "num_published",
        "output_ids",
        "pages",
        "prompt_logprobs",
        "queue_s",
        "rank",
        "request",
        "row",
        "sampler_states",
        "samplers",
        "seed",
        "stop_ids",
        "thinking",
        "token_ids",
    )

    def __init__(
        self,
        request: GenerateRequest,
        index: int,
        *,
        seed: int,
        eos_token_ids: frozenset[int],
        arrival: int,
        samplers: tuple[tuple[int, Any], ...] = (),
        leader: Sequence | None = None,
        needs_host: bool = True,
    ) -> None:
        sampling = request.sampling
        self.request = request
        self.index = index
        self.seed = seed
        self.leader = leader  # the request's first sequence, which computes the prompt for all
        self.samplers = samplers  # (place among the engine's, parameters), as they run here
        self.sampler_states: list[Any] = [None] * len(samplers)  # what each keeps of this sequence
        self.needs_host = needs_host  # for each token, before the next can be chosen
        self.bans = make_bans(sampling)
        self.beams: BeamGroup | None = None  # whose beam this is
        self.stop_ids = frozenset(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            self.stop_ids |= eos_token_ids
        self.rank = (request.priority, arrival)  # unique; lower runs earlier
        self.token_ids = list(request.prompt_ids)  # prompt, then output
        self.output_ids: list[int] = []
        self.pages = array("i")  # in token order
        self.digests: list[bytes] = []  # chain of the full pages, as far as computed
        self.num_computed = 0
        self.num_pending = 0  # tokens that are chosen, or will have been, but not known here yet
        self.row = -1  # of the device's state, where there is one
        self.num_published = 0  # pages that the prefix cache knows by their digest
        self.num_cached_tokens: int | None = None  # prompt tokens found cached at first admission
        self.arrived_at = perf_counter()
        self.queue_s = 0.0  # that it waited for its first step
        self.num_charged = 0  # output tokens that its tenant's counter has
        self.prompt_logprobs: list[TokenLogprob | None] | None = (
            None if sampling.prompt_logprobs is None else [None]
        )
        self.thinking = ThinkingClock(request.thinking) if request.thinking else None
        self.grammar: GrammarState | None = None  # where the output stands in it
        self.is_compiling = bool(request.grammar)  # the scheduler does not know it yet
        self.is_running = False

    @property
    def priority(self) -> int:
        """Lower runs earlier."""
        return self.rank[0]

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def num_missing(self) -> int:
        """Tokens to compute before the next can be chosen; 1 while decoding."""
        return len(self.token_ids) + self.num_pending - self.num_computed

    @property
    def is_full(self) -> bool:
        """Whether it ends with what is pending, whatever that is."""
        most = self.request.sampling.max_tokens
        return most is not None and len(self.output_ids) + self.num_pending >= most

    @property
    def is_stop_held_back(self) -> bool:
        """Whether `min_tokens` still forbids to end."""
        return len(self.output_ids) + self.num_pending < self.request.sampling.min_tokens

    def follow_grammar(self, token_id: int) -> bool:
        """Go on in the grammar; whether it allows the token. What ends a sequence is none of it."""
        return self.grammar is None or token_id in self.stop_ids or self.grammar.accept(token_id)

    def launch(self, num_tokens: int, *, is_chosen: bool) -> None:
        """Note that a step is under way that computes tokens, and maybe chooses the next one."""
        self.num_computed += num_tokens
        self.num_pending += is_chosen

    def append_beam_token(self, token_id: int) -> None:
        """Go on with a token of a beam, which others than the sequence know the end of."""
        self.token_ids.append(token_id)
        self.output_ids.append(token_id)

    def replace_output(self, output_ids: list[int]) -> None:
        """Become another beam; what is computed of it, the scheduler says."""
        self.output_ids = output_ids
        self.token_ids = [*self.request.prompt_ids, *output_ids]

    def append(self, token_id: int) -> FinishReason | None:
        """Take a chosen token; return why the sequence ends with it, if it does."""
        self.token_ids.append(token_id)
        self.output_ids.append(token_id)
        if self.thinking is not None:
            self.thinking.take(token_id)
        sampling = self.request.sampling
        if self.grammar is not None and self.grammar.is_done:
            return FinishReason.STOP
        if token_id in self.stop_ids and len(self.output_ids) > sampling.min_tokens:
            return FinishReason.STOP
        if sampling.max_tokens is not None and len(self.output_ids) >= sampling.max_tokens:
            return FinishReason.LENGTH
        return None


def derive_seed(seed: int, index: int) -> int:
    """Return the seed of a request's sequence `index`: an int64, the request's own for index 0.

    Source: SplitMix64, https://prng.di.unimi.it/splitmix64.c
    """
    if index == 0:
        return seed
    z = (seed + index * 0x9E3779B97F4A7C15) & _UINT64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _UINT64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _UINT64
    z ^= z >> 31
    return z - 2**64 if z >= 2**63 else z
