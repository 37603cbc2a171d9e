"""The completions request."""

from __future__ import annotations

from typing import Any

from llmplug.errors import InvalidRequest
from llmplug.server.schema.generation import GenerationFields

DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionsRequest(GenerationFields):
    """Fields of `POST /v1/completions` that are served."""

    prompt: Any  # read_prompts checks it: unions would spoil the path in its errors
    best_of: int | None = None
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None

    def check(self) -> None:
        """Refuse combinations that contradict each other, or that are not served.

        Raises:
            InvalidRequest: they contradict; `param` names one of the two.
        """
        self.check_generation()
        self._check_best_of()
        if self.suffix and (self.echo or self.may_truncate):
            raise InvalidRequest(
                "'suffix' cannot be joined with 'echo', nor with a prompt that is cut.",
                param="suffix",
            )
        if self.token_limit == 0 and not self.echo:
            raise InvalidRequest(
                "'max_tokens' may only be 0 together with 'echo'.", param="max_tokens"
            )

    def _check_best_of(self) -> None:
        if self.best_of is not None and self.best_of < self.num_shown:
            raise InvalidRequest("'best_of' must not be below 'n'.", param="best_of")
        if self.num_made > self.num_shown and (self.stream or self.echo):
            other = "stream" if self.stream else "echo"
            raise InvalidRequest(
                f"'best_of' above 'n' cannot be had together with '{other}'.", param="best_of"
            )

    @property
    def num_shown(self) -> int:
        """Answers to each prompt."""
        return 1 if self.n is None else self.n

    @property
    def num_made(self) -> int:
        """Answers that are generated to each prompt; a beam search finds the best by itself."""
        if self.use_beam_search or self.best_of is None:
            return self.num_shown
        return self.best_of

    @property
    def num_beams(self) -> int:
        """As wide as a beam search is to be."""
        return self.num_shown if self.best_of is None else self.best_of

    @property
    def token_limit(self) -> int:
        """Tokens to generate at most."""
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
