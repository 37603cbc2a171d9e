"""The completions request."""

from __future__ import annotations

from typing import Any

from llmplug.errors import InvalidRequest, UnsupportedParameter
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
            UnsupportedParameter: `best_of` asks for more answers than `n`.
        """
        self.check_generation()
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise UnsupportedParameter(
                "'best_of' is only supported when it equals 'n'.", param="best_of"
            )
        if self.suffix and (self.echo or self.may_truncate):
            raise InvalidRequest(
                "'suffix' cannot be joined with 'echo', nor with a prompt that is cut.",
                param="suffix",
            )
        if self.token_limit == 0 and not self.echo:
            raise InvalidRequest(
                "'max_tokens' may only be 0 together with 'echo'.", param="max_tokens"
            )

    @property
    def token_limit(self) -> int:
        """Tokens to generate at most."""
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
