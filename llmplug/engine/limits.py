"""What a request may ask for: every range, id and number is checked here, behind every frontend.

The client calls `normalise` before it sends, the engine when it takes a request; the second call
changes nothing. Whatever is refused is refused before anything is kept of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from llmplug.engine.beam_limits import check_beams, check_with_beams
from llmplug.engine.ranges import (
    INT32,
    INT64,
    RANGES,
    check_logit_bias,
    check_sampling_number,
    check_text,
    check_token_ids,
    check_whole,
    say_count,
)
from llmplug.engine.sampler_choice import check_samplers
from llmplug.engine.thinking import fit_budget
from llmplug.errors import ContextLengthExceeded, InvalidRequest
from llmplug.types import GenerateRequest, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmplug.specs import SamplerSpec

MAX_NUM_SEQUENCES = 128
MAX_LOGPROBS = 20  # OpenAI's bound of top_logprobs
MAX_STOP_STRINGS = 64
MAX_STOP_CHARS = 1024
MAX_STOP_TOKEN_IDS = 1024
MAX_BAD_WORDS = 1024
MAX_BAD_WORD_TOKENS = 4096  # of all together
MAX_SALT_CHARS = 256  # a salt is hashed in the engine's process


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """The bounds that one engine sets."""

    vocab_size: int  # width of the logits: the one limit of every token id
    context_length: int
    num_cache_tokens: int  # a sequence must fit the cache alone
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict)
    # The engine's samplers. None: not known here, the engine will check.
    samplers: tuple[SamplerSpec, ...] | None = None

    @property
    def max_tokens(self) -> int:
        """Tokens of one sequence, prompt and output together."""
        return min(self.context_length, self.num_cache_tokens)


def normalise(request: GenerateRequest, limits: RequestLimits) -> GenerateRequest:
    """Check a request and fill in what it leaves open.

    A sampling field that is None takes the model's default, then the neutral value; `seed` alone
    stays open. `max_tokens` is cut to what the prompt leaves of the context and of the cache.

    Raises:
        ContextLengthExceeded: the prompt leaves no room for a token.
        UnsupportedParameter: no sampler of this engine knows a field.
        InvalidRequest: a value is out of range or of the wrong type; `param` names it.
    """
    check_whole("n", request.num_sequences, 1, MAX_NUM_SEQUENCES)
    check_whole("priority", request.priority, -INT32, INT32 - 1)
    check_text("request_id", request.request_id, 1, MAX_SALT_CHARS)
    check_text("cache_salt", request.cache_salt, 0, MAX_SALT_CHARS)
    check_text("tenant", request.tenant, 0, MAX_SALT_CHARS)
    _check_prompt(request.prompt_ids, limits)
    room = limits.max_tokens - len(request.prompt_ids)
    sampling = _normalise_sampling(request.sampling, limits, room)
    if request.grammar:
        _check_with_grammar(sampling)
    if sampling.beams is not None:
        check_with_beams(request, sampling.beams)
    thinking = request.thinking
    if thinking is not None:
        thinking = fit_budget(thinking, sampling.max_tokens or room, limits.vocab_size)
    return msgspec.structs.replace(request, sampling=sampling, thinking=thinking)


def _check_prompt(prompt_ids: list[int], limits: RequestLimits) -> None:
    if not isinstance(prompt_ids, list) or not prompt_ids:
        raise InvalidRequest("The prompt is empty; send at least one token.", param="prompt")
    if len(prompt_ids) >= limits.max_tokens:
        where = (
            f"This model's maximum context length is {limits.context_length} tokens"
            if limits.context_length <= limits.num_cache_tokens
            else f"The KV cache of this engine holds {limits.num_cache_tokens} tokens"
        )
        raise ContextLengthExceeded(
            f"{where}, but the prompt alone has {say_count(len(prompt_ids), limits.max_tokens)}; "
            "shorten it.",
            param="prompt",
        )
    check_token_ids("prompt", prompt_ids, limits.vocab_size)


def _normalise_sampling(
    sampling: SamplingParams, limits: RequestLimits, room: int
) -> SamplingParams:
    filled = _fill(sampling, limits.sampling_defaults)
    for name in RANGES:
        filled[name] = check_sampling_number(name, filled[name], limits.vocab_size, name)
    if filled["seed"] is not None:
        check_whole("seed", filled["seed"], -INT64, INT64 - 1)
    for name in ("logprobs", "prompt_logprobs"):
        if filled[name] is not None:
            check_whole(name, filled[name], 0, MAX_LOGPROBS)
    for name in ("include_stop_str_in_output", "ignore_eos", "skip_special_tokens"):
        if not isinstance(filled[name], bool):
            raise InvalidRequest(f"{name} must be true or false.", param=name)
    _fit_lengths(filled, room)
    filled["stop"] = _check_stop(filled["stop"])
    filled["stop_token_ids"] = _check_stop_ids(filled["stop_token_ids"], limits.vocab_size)
    filled["logit_bias"] = check_logit_bias("logit_bias", filled["logit_bias"], limits.vocab_size)
    filled["allowed_token_ids"] = _check_allowed(filled["allowed_token_ids"], limits.vocab_size)
    filled["bad_words"] = _check_bad_words(filled["bad_words"], limits.vocab_size)
    if filled["beams"] is not None:
        check_beams(filled, sampling, limits.samplers)
    check_samplers(filled, sampling, limits.samplers, limits.vocab_size)
    return SamplingParams(**filled)


def _fill(sampling: SamplingParams, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields as a dict, with the model's defaults where nothing is said."""
    filled = msgspec.structs.asdict(sampling)
    for name, value in filled.items():
        if value is None and defaults.get(name) is not None:
            filled[name] = defaults[name]
    return filled


def _fit_lengths(filled: dict[str, Any], room: int) -> None:
    """Cut `max_tokens` and `min_tokens` to the room that the prompt leaves."""
    asked = filled["max_tokens"]
    if asked is not None:
        check_whole("max_tokens", asked, 1, math.inf)
    check_whole("min_tokens", filled["min_tokens"], 0, math.inf)
    if asked is not None and filled["min_tokens"] > asked:
        raise InvalidRequest(
            f"min_tokens ({filled['min_tokens']}) is above max_tokens ({asked}).",
            param="min_tokens",
        )
    filled["max_tokens"] = room if asked is None else min(asked, room)
    filled["min_tokens"] = min(filled["min_tokens"], filled["max_tokens"])


def _check_stop(stop: Any) -> tuple[str, ...]:
    if not isinstance(stop, tuple | list) or len(stop) > MAX_STOP_STRINGS:
        raise InvalidRequest(
            f"stop must be a list of at most {MAX_STOP_STRINGS} strings.", param="stop"
        )
    for text in stop:
        check_text("stop", text, 1, MAX_STOP_CHARS)
    return tuple(stop)


def _check_stop_ids(token_ids: Any, vocab_size: int) -> tuple[int, ...]:
    if not isinstance(token_ids, tuple | list) or len(token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequest(
            f"stop_token_ids must be a list of at most {MAX_STOP_TOKEN_IDS} token ids.",
            param="stop_token_ids",
        )
    check_token_ids("stop_token_ids", token_ids, vocab_size)
    return tuple(token_ids)


def _check_allowed(token_ids: Any, vocab_size: int) -> tuple[int, ...]:
    if not isinstance(token_ids, tuple | list):
        raise InvalidRequest(
            "allowed_token_ids must be a list of token ids.", param="allowed_token_ids"
        )
    if len(token_ids) > vocab_size:
        raise InvalidRequest(
            f"allowed_token_ids holds more ids than there are tokens, {vocab_size}.",
            param="allowed_token_ids",
        )
    check_token_ids("allowed_token_ids", token_ids, vocab_size)
    return tuple(token_ids)


def _check_bad_words(words: Any, vocab_size: int) -> tuple[tuple[int, ...], ...]:
    if not isinstance(words, tuple | list) or len(words) > MAX_BAD_WORDS:
        raise InvalidRequest(
            f"bad_words must be a list of at most {MAX_BAD_WORDS} token sequences.",
            param="bad_words",
        )
    if not all(isinstance(word, tuple | list) and word for word in words):
        raise InvalidRequest("bad_words must hold texts that have tokens.", param="bad_words")
    if sum(map(len, words)) > MAX_BAD_WORD_TOKENS:
        raise InvalidRequest(
            f"bad_words may have {MAX_BAD_WORD_TOKENS} tokens together.", param="bad_words"
        )
    for word in words:
        check_token_ids("bad_words", word, vocab_size)
    return tuple(tuple(word) for word in words)


def _check_with_grammar(sampling: SamplingParams) -> None:
    """A grammar says where an answer ends; what says otherwise contradicts it."""
    for name in ("min_tokens", "ignore_eos"):
        if getattr(sampling, name):
            raise InvalidRequest(f"{name} contradicts a grammar, which ends by itself.", param=name)
