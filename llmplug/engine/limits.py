"""What a request may ask for: every range, id and number is checked here, behind every frontend.

The client calls `normalise` before it sends, the engine when it takes a request; the second call
changes nothing. Whatever is refused is refused before anything is kept of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from llmplug.engine.thinking import fit_budget
from llmplug.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from llmplug.types import GenerateRequest, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import BaseModel

MAX_NUM_SEQUENCES = 128
MAX_LOGPROBS = 20  # OpenAI's bound of top_logprobs
MAX_STOP_STRINGS = 64
MAX_STOP_CHARS = 1024
MAX_STOP_TOKEN_IDS = 1024
MAX_LOGIT_BIAS = 1024
MAX_SALT_CHARS = 256  # a salt is hashed in the engine's process
MAX_EXTRA = 64
# Below this, logits divided by the temperature leave float32; such a request means greedy.
MIN_TEMPERATURE = 1e-5
INT64 = 2**63
INT32 = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """The bounds that one engine sets."""

    vocab_size: int  # width of the logits: the one limit of every token id
    context_length: int
    num_cache_tokens: int  # a sequence must fit the cache alone
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict)
    # Parameters of the engine's samplers. None: not known here, the engine will check.
    sampler_params: tuple[type[BaseModel], ...] | None = None

    @property
    def max_tokens(self) -> int:
        """Tokens of one sequence, prompt and output together."""
        return min(self.context_length, self.num_cache_tokens)


@dataclass(frozen=True, slots=True)
class _Range:
    """Where a number may lie, and what it is when nobody says."""

    neutral: float
    low: float
    high: float
    excludes_low: bool = False
    is_whole: bool = False


_RANGES = {
    "temperature": _Range(1.0, 0.0, 100.0),
    "top_p": _Range(1.0, 0.0, 1.0, excludes_low=True),
    "top_k": _Range(0, -1, INT32 - 1, is_whole=True),  # -1 is off too, as elsewhere
    "min_p": _Range(0.0, 0.0, 1.0),
    "presence_penalty": _Range(0.0, -2.0, 2.0),
    "frequency_penalty": _Range(0.0, -2.0, 2.0),
    "repetition_penalty": _Range(1.0, 0.0, 100.0, excludes_low=True),
}
_CORE_FIELDS = frozenset(SamplingParams.__struct_fields__)


def normalise(request: GenerateRequest, limits: RequestLimits) -> GenerateRequest:
    """Check a request and fill in what it leaves open.

    A sampling field that is None takes the model's default, then the neutral value; `seed` alone
    stays open. `max_tokens` is cut to what the prompt leaves of the context and of the cache.

    Raises:
        ContextLengthExceeded: the prompt leaves no room for a token.
        UnsupportedParameter: no sampler of this engine knows a field.
        InvalidRequest: a value is out of range or of the wrong type; `param` names it.
    """
    _check_whole("n", request.num_sequences, 1, MAX_NUM_SEQUENCES)
    _check_whole("priority", request.priority, -INT32, INT32 - 1)
    _check_text("request_id", request.request_id, 1, MAX_SALT_CHARS)
    _check_text("cache_salt", request.cache_salt, 0, MAX_SALT_CHARS)
    _check_text("tenant", request.tenant, 0, MAX_SALT_CHARS)
    _check_prompt(request.prompt_ids, limits)
    room = limits.max_tokens - len(request.prompt_ids)
    sampling = _normalise_sampling(request.sampling, limits, room)
    if request.grammar:
        _check_with_grammar(sampling)
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
            f"{where}, but the prompt alone has {len(prompt_ids)}; shorten it.", param="prompt"
        )
    _check_token_ids("prompt", prompt_ids, limits.vocab_size)


def _normalise_sampling(
    sampling: SamplingParams, limits: RequestLimits, room: int
) -> SamplingParams:
    filled = _fill(sampling, limits.sampling_defaults)
    for name, allowed in _RANGES.items():
        filled[name] = _check_range(name, filled[name], allowed)
    if filled["temperature"] < MIN_TEMPERATURE:
        filled["temperature"] = 0.0
    filled["top_k"] = min(max(filled["top_k"], 0), limits.vocab_size)
    if filled["seed"] is not None:
        _check_whole("seed", filled["seed"], -INT64, INT64 - 1)
    for name in ("logprobs", "prompt_logprobs"):
        if filled[name] is not None:
            _check_whole(name, filled[name], 0, MAX_LOGPROBS)
    for name in ("include_stop_str_in_output", "ignore_eos", "skip_special_tokens"):
        if not isinstance(filled[name], bool):
            raise InvalidRequest(f"{name} must be true or false.", param=name)
    _fit_lengths(filled, room)
    filled["stop"] = _check_stop(filled["stop"])
    filled["stop_token_ids"] = _check_stop_ids(filled["stop_token_ids"], limits.vocab_size)
    filled["logit_bias"] = _check_logit_bias(filled["logit_bias"], limits.vocab_size)
    _check_samplers(filled, limits.sampler_params)
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
        _check_whole("max_tokens", asked, 1, math.inf)
    _check_whole("min_tokens", filled["min_tokens"], 0, math.inf)
    if asked is not None and filled["min_tokens"] > asked:
        raise InvalidRequest(
            f"min_tokens ({filled['min_tokens']}) is above max_tokens ({asked}).",
            param="min_tokens",
        )
    filled["max_tokens"] = room if asked is None else min(asked, room)
    filled["min_tokens"] = min(filled["min_tokens"], filled["max_tokens"])


def _check_range(name: str, value: Any, allowed: _Range) -> float:
    if value is None:
        return allowed.neutral
    if allowed.is_whole:
        _check_whole(name, value, allowed.low, allowed.high)
        return int(value)
    _check_finite(name, value)
    is_low = value <= allowed.low if allowed.excludes_low else value < allowed.low
    if is_low or value > allowed.high:
        start = "above" if allowed.excludes_low else "at least"
        raise InvalidRequest(
            f"{name} is {value}; it must be {start} {allowed.low:g} and at most {allowed.high:g}.",
            param=name,
        )
    return float(value)


def _check_finite(name: str, value: Any) -> None:
    """Refuse whatever is no finite number: NaN passes every comparison that follows."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # An int too large for a float is no number for us either.
    if not is_number or abs(value) > INT64 or not math.isfinite(value):
        raise InvalidRequest(f"{name} must be a finite number.", param=name)


def _check_whole(name: str, value: Any, low: float, high: float) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"{name} must be an integer.", param=name)
    if value < low or value > high:
        bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        shown = value if abs(value) < INT64 else "out of range"
        raise InvalidRequest(f"{name} is {shown}; it must be {bounds}.", param=name)


def _check_text(name: str, value: Any, shortest: int, longest: int) -> None:
    if not isinstance(value, str) or not shortest <= len(value) <= longest:
        raise InvalidRequest(
            f"{name} must be a string of {shortest} to {longest} characters.", param=name
        )


def _check_token_ids(name: str, token_ids: Iterable[Any], vocab_size: int) -> None:
    for token_id in token_ids:
        # `type is`: bool is an int, and True is no token.
        if type(token_id) is not int or not 0 <= token_id < vocab_size:
            raise InvalidRequest(
                f"{name} holds a token id that is not an integer from 0 to {vocab_size - 1}.",
                param=name,
            )


def _check_stop(stop: Any) -> tuple[str, ...]:
    if not isinstance(stop, tuple | list) or len(stop) > MAX_STOP_STRINGS:
        raise InvalidRequest(
            f"stop must be a list of at most {MAX_STOP_STRINGS} strings.", param="stop"
        )
    for text in stop:
        _check_text("stop", text, 1, MAX_STOP_CHARS)
    return tuple(stop)


def _check_stop_ids(token_ids: Any, vocab_size: int) -> tuple[int, ...]:
    if not isinstance(token_ids, tuple | list) or len(token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequest(
            f"stop_token_ids must be a list of at most {MAX_STOP_TOKEN_IDS} token ids.",
            param="stop_token_ids",
        )
    _check_token_ids("stop_token_ids", token_ids, vocab_size)
    return tuple(token_ids)


def _check_logit_bias(bias: Any, vocab_size: int) -> dict[int, float]:
    if not isinstance(bias, dict) or len(bias) > MAX_LOGIT_BIAS:
        raise InvalidRequest(
            f"logit_bias must be a map of at most {MAX_LOGIT_BIAS} token ids.", param="logit_bias"
        )
    _check_token_ids("logit_bias", bias, vocab_size)
    allowed = _Range(0.0, -100.0, 100.0)
    return {
        token_id: _check_range("logit_bias", value, allowed) for token_id, value in bias.items()
    }


def _check_samplers(
    filled: Mapping[str, Any], sampler_params: tuple[type[BaseModel], ...] | None
) -> None:
    """Refuse what no sampler serves, and values that the sampler's own model refuses."""
    from pydantic import ValidationError

    extra = filled["extra"]
    if not isinstance(extra, dict) or len(extra) > MAX_EXTRA:
        raise InvalidRequest(f"at most {MAX_EXTRA} extra parameters are taken.", param="extra")
    if sampler_params is None:
        return
    served = {name for params in sampler_params for name in params.model_fields}
    for name in extra:
        if name not in served or name in _CORE_FIELDS:
            raise UnsupportedParameter(f"No sampler of this model takes {name!r}.", param=name)
    asked = {name for name, allowed in _RANGES.items() if filled[name] != allowed.neutral}
    asked |= {"logit_bias"} if filled["logit_bias"] else set()
    for name in sorted(asked - served):
        raise UnsupportedParameter(f"No sampler of this model takes {name!r}.", param=name)
    for params in sampler_params:
        try:
            sampler_values(params, filled)
        except ValidationError as error:
            first = error.errors()[0]
            param = str(first["loc"][0]) if first["loc"] else None
            raise InvalidRequest(f"{param}: {first['msg']}.", param=param) from error


def sampler_values(params: type[BaseModel], filled: Mapping[str, Any]) -> BaseModel:
    """Make one sampler's parameters of a request's fields and of its extra ones."""
    extra = filled["extra"]
    values = {}
    for name in params.model_fields:
        if name in _CORE_FIELDS:
            values[name] = filled[name]
        elif name in extra:
            values[name] = extra[name]
    return params.model_validate(values)


def _check_with_grammar(sampling: SamplingParams) -> None:
    """A grammar says where an answer ends; what says otherwise contradicts it."""
    for name in ("min_tokens", "ignore_eos"):
        if getattr(sampling, name):
            raise InvalidRequest(f"{name} contradicts a grammar, which ends by itself.", param=name)
