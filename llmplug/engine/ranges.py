"""What a number, a text or a token id of a request may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmplug.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

INT64 = 2**63
INT32 = 2**31
MAX_LOGIT_BIAS = 1024


@dataclass(frozen=True, slots=True)
class Range:
    """Where a number may lie, and what it is when nobody says."""

    neutral: float
    low: float
    high: float
    excludes_low: bool = False
    is_whole: bool = False


# The numbers of `SamplingParams` that samplers take.
RANGES = {
    "temperature": Range(1.0, 0.0, 100.0),
    "top_p": Range(1.0, 0.0, 1.0, excludes_low=True),
    "top_k": Range(0, -1, INT32 - 1, is_whole=True),  # -1 is off too, as elsewhere
    "min_p": Range(0.0, 0.0, 1.0),
    "presence_penalty": Range(0.0, -2.0, 2.0),
    "frequency_penalty": Range(0.0, -2.0, 2.0),
    "repetition_penalty": Range(1.0, 0.0, 100.0, excludes_low=True),
}
# Below this, logits divided by the temperature leave float32; such a request means greedy.
MIN_TEMPERATURE = 1e-5
_BIAS = Range(0.0, -100.0, 100.0)


def check_sampling_number(field: str, value: Any, vocab_size: int, param: str) -> float:
    """Check one of `RANGES` and bring it to the form that samplers get; errors say `param`."""
    number = check_range(param, value, RANGES[field])
    if field == "temperature" and number < MIN_TEMPERATURE:
        return 0.0
    if field == "top_k":
        return min(max(number, 0), vocab_size)
    return number


def check_range(name: str, value: Any, allowed: Range) -> float:
    """Return the number, neutral for None."""
    if value is None:
        return allowed.neutral
    if allowed.is_whole:
        check_whole(name, value, allowed.low, allowed.high)
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


def check_whole(name: str, value: Any, low: float, high: float) -> None:
    """Refuse what is no integer between two bounds."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"{name} must be an integer.", param=name)
    if value < low or value > high:
        bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        shown = value if abs(value) < INT64 else "out of range"
        raise InvalidRequest(f"{name} is {shown}; it must be {bounds}.", param=name)


def say_count(num_tokens: int, most: int) -> str:
    """Say how many tokens there are; of many more than `most`, perhaps not all were made."""
    return str(num_tokens) if num_tokens <= 2 * most else f"more than {2 * most}"


def check_text(name: str, value: Any, shortest: int, longest: int) -> None:
    """Refuse what is no string between two lengths."""
    if not isinstance(value, str) or not shortest <= len(value) <= longest:
        raise InvalidRequest(
            f"{name} must be a string of {shortest} to {longest} characters.", param=name
        )


def check_token_ids(name: str, token_ids: Iterable[Any], vocab_size: int) -> None:
    """Refuse ids that the logits have no place for."""
    for token_id in token_ids:
        # `type is`: bool is an int, and True is no token.
        if type(token_id) is not int or not 0 <= token_id < vocab_size:
            raise InvalidRequest(
                f"{name} holds a token id that is not an integer from 0 to {vocab_size - 1}.",
                param=name,
            )


def check_logit_bias(name: str, bias: Any, vocab_size: int) -> dict[int, float]:
    """Return a map of token ids to finite numbers."""
    if not isinstance(bias, dict) or len(bias) > MAX_LOGIT_BIAS:
        raise InvalidRequest(
            f"{name} must be a map of at most {MAX_LOGIT_BIAS} token ids.", param=name
        )
    check_token_ids(name, bias, vocab_size)
    return {token_id: check_range(name, value, _BIAS) for token_id, value in bias.items()}
