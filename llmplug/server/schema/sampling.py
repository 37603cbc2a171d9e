"""The fields that both generation endpoints share.

Types are checked here; ranges, token ids and the context are checked once, behind every
frontend, by `llmplug.engine.limits`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from llmplug.errors import InvalidRequest
from llmplug.types import BeamParams, SamplingParams

# Far above what anybody uses; keeps a list of strings from becoming work per character.
MAX_STOP_STRINGS = 64
MAX_STOP_CHARS = 1024
MAX_BAD_WORDS = 128  # they are tokenised in the server's loop
MAX_BAD_WORD_CHARS = 128


class StreamOptions(BaseModel):
    """`stream_options`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None  # usage so far in every chunk
    # Padding against traffic analysis: none is added, so asking for less is no wish refused.
    include_obfuscation: bool | None = None


class SamplingFields(BaseModel):
    """Fields of a request that say how tokens are chosen; None: not said."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: Any = None  # a string or a list of strings
    response_format: Any = None  # read_structure checks it

    # Ours, named as other servers name them.
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    priority: int | None = None
    cache_salt: str | None = None
    structured_outputs: Any = None  # read_structure checks it
    samplers: Any = None  # the engine's limits check it: they know the samplers
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None

    def check_stream_options(self) -> None:
        """Refuse `stream_options` without `stream`, as OpenAI does."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
            )

    @property
    def repeats_usage(self) -> bool:
        """Whether every chunk of a stream states the usage so far."""
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def to_sampling(
        self,
        *,
        max_tokens: int | None,
        logprobs: int | None,
        extra: dict[str, Any],
        prompt_logprobs: int | None = None,
        beams: BeamParams | None = None,
    ) -> SamplingParams:
        """Build the engine's parameters."""
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias=read_logit_bias(self.logit_bias),
            seed=self.seed,
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            stop=read_stop(self.stop),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            include_stop_str_in_output=bool(self.include_stop_str_in_output),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            skip_special_tokens=self.skip_special_tokens is not False,
            extra=extra,
            samplers=tuple(self.samplers) if isinstance(self.samplers, list) else self.samplers,
            allowed_token_ids=read_allowed_ids(self.allowed_token_ids),
            bad_words=read_bad_words(self.bad_words),
            beams=beams,
        )


def read_stop(stop: Any) -> tuple[str, ...]:
    """Take a string, a list of strings or nothing.

    Raises:
        InvalidRequest: anything else, an empty string, or too many.
    """
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(each, str) for each in stops):
        raise InvalidRequest(
            "'stop' must be a string or a list of strings.", param="stop", code="invalid_type"
        )
    if not all(stops):
        raise InvalidRequest("'stop' must not hold an empty string.", param="stop")
    if len(stops) > MAX_STOP_STRINGS:
        raise InvalidRequest(
            f"'stop' holds {len(stops)} strings; at most {MAX_STOP_STRINGS} are allowed.",
            param="stop",
        )
    if max(map(len, stops), default=0) > MAX_STOP_CHARS:
        raise InvalidRequest(
            f"'stop' holds a string of more than {MAX_STOP_CHARS} characters.", param="stop"
        )
    return tuple(stops)


def read_allowed_ids(token_ids: list[int] | None) -> tuple[int, ...]:
    """Take a list of ids or nothing.

    Raises:
        InvalidRequest: it is empty, and so would forbid everything.
    """
    if token_ids is not None and not token_ids:
        raise InvalidRequest("'allowed_token_ids' allows no token.", param="allowed_token_ids")
    return tuple(token_ids or ())


def read_bad_words(words: list[str] | None) -> tuple[str, ...]:
    """Take a list of texts or nothing.

    Raises:
        InvalidRequest: one is empty, or there are too many or too long ones.
    """
    if words is None:
        return ()
    if len(words) > MAX_BAD_WORDS or not all(0 < len(word) <= MAX_BAD_WORD_CHARS for word in words):
        raise InvalidRequest(
            f"'bad_words' must be a list of at most {MAX_BAD_WORDS} texts of 1 to "
            f"{MAX_BAD_WORD_CHARS} characters.",
            param="bad_words",
        )
    return tuple(words)


def read_logit_bias(bias: dict[str, float] | None) -> dict[int, float]:
    """Turn OpenAI's string keys into token ids.

    Raises:
        InvalidRequest: a key is no whole number.
    """
    ids: dict[int, float] = {}
    for key, value in (bias or {}).items():
        # int() alone would take "1_0", " 1" and digits of other scripts, and spend long on many.
        if not (key.isascii() and key.isdigit() and len(key) < 20):
            raise InvalidRequest(
                f"'logit_bias' has the key {key[:40]!r}, which is no token id.",
                param="logit_bias",
            )
        ids[int(key)] = value
    return ids
