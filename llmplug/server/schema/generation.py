"""The fields that chats and completions share beside those that say how tokens are chosen."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from llmplug.errors import InvalidRequest
from llmplug.server.schema.sampling import SamplingFields
from llmplug.types import BeamParams

WHOLE_CONTEXT = -1  # of `truncate_prompt_tokens`: what the context holds beside the answer
MAX_DEADLINE_MS = 24 * 3600 * 1000


class GenerationFields(SamplingFields):
    """What becomes of a long prompt, how long an answer may take, what is told of it."""

    prompt_logprobs: int | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    overflow: Literal["clamp", "error", "truncate"] | None = None
    deadline_ms: int | None = Field(None, ge=1, le=MAX_DEADLINE_MS)
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    early_stopping: Any = None  # the engine's limits check it: a union spoils errors' paths
    timings: bool | None = None

    def check_generation(self) -> None:
        """Refuse numbers out of range, and combinations that contradict each other.

        Raises:
            InvalidRequest: `param` names the field, or one of the two.
        """
        self.check_stream_options()
        length = self.truncate_prompt_tokens
        if length is not None and length != WHOLE_CONTEXT and length < 1:
            raise InvalidRequest(
                f"'truncate_prompt_tokens' must be at least 1, or {WHOLE_CONTEXT} for what the "
                "context holds.",
                param="truncate_prompt_tokens",
            )
        if self.truncation_side is not None and not self.may_truncate:
            raise InvalidRequest(
                "'truncation_side' needs 'truncate_prompt_tokens', or 'overflow' to be 'truncate'.",
                param="truncation_side",
            )

        for name in ("length_penalty", "early_stopping"):
            if getattr(self, name) is not None and not self.use_beam_search:
                raise InvalidRequest(f"'{name}' needs 'use_beam_search'.", param=name)

    @property
    def num_beams(self) -> int:
        """As wide as a beam search is to be."""
        return 1 if self.n is None else self.n

    @property
    def beams(self) -> BeamParams | None:
        """The beam search that is asked for."""
        if not self.use_beam_search:
            return None
        return BeamParams(
            width=self.num_beams,
            length_penalty=1.0 if self.length_penalty is None else self.length_penalty,
            early_stopping=False if self.early_stopping is None else self.early_stopping,
        )

    @property
    def may_truncate(self) -> bool:
        """Whether a long prompt is cut, and not refused."""
        return self.truncate_prompt_tokens is not None or self.overflow == "truncate"
