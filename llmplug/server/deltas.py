"""What is new in a reply, before an encoder writes it for one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmplug.types import TokenLogprob


@dataclass(frozen=True, slots=True)
class TokenText:
    """One token with its log-probability, placed in its choice's text."""

    offset: int  # characters before it
    token_id: int
    logprob: float | None  # None: the first token of a prompt
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True, slots=True)
class CallDelta:
    """What is new in one tool call; the first one has its id and its name."""

    index: int  # of the call in its answer
    id: str | None = None
    name: str | None = None
    arguments: str = ""  # JSON text, to be appended


@dataclass(frozen=True, slots=True)
class PromptReport:
    """What a request wants to be told of its prompt; None: not asked for."""

    token_ids: Sequence[int] | None = None
    logprobs: Sequence[TokenLogprob | None] | None = None  # the first token has none


@dataclass(frozen=True, slots=True)
class ChoiceDelta:
    """What is new in one choice: text, thinking or a call.

    `finish_reason` comes once, with its last delta; `stop_reason` with it is the stop string or the
    one of the request's stop token ids that ended it, or `deadline_ms`, if one of these did.
    """

    index: int
    text: str = ""
    tokens: Sequence[TokenText] = ()
    finish_reason: str | None = None  # "stop", "length" or "tool_calls"
    reasoning: str = ""
    call: CallDelta | None = None
    stop_reason: str | int | None = None
    token_ids: Sequence[int] = ()  # that were generated, if they are asked for
    prompt: PromptReport | None = None  # with its first delta


@dataclass(slots=True)
class Usage:
    """Tokens of a request, summed over its prompts and choices."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def to_json(self) -> dict[str, object]:
        """OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }
