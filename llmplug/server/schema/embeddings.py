"""The embeddings request, and what embeddings look like in a reply."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from llmplug.errors import InvalidRequest

UNSERVED_WITH_TEXTS: Mapping[str, Any] = {
    name: lambda value: value in (None, False, [], {})
    for name in ("padding", "embed_dtype", "endianness", "images", "inputs", "mm_processor_kwargs")
}


class TextFields(BaseModel):
    """Fields that all endpoints share which make something of whole texts."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    model: str
    user: str | None = None
    truncate_prompt_tokens: int | None = None  # -1: to what the model takes
    truncation_side: Literal["left", "right"] | None = None
    priority: int | None = None

    def check_truncation(self) -> None:
        """Refuse lengths that are none.

        Raises:
            InvalidRequest: `truncate_prompt_tokens` is neither -1 nor at least 1.
        """
        length = self.truncate_prompt_tokens
        if length is not None and length != -1 and length < 1:
            raise InvalidRequest(
                "'truncate_prompt_tokens' must be -1, or at least 1.",
                param="truncate_prompt_tokens",
            )


class EmbeddingsRequest(TextFields):
    """Fields of `POST /v1/embeddings` that are served."""

    input: Any = None  # read_prompts checks it
    messages: Any = None  # read_messages checks it
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    normalize: bool | None = None
    add_special_tokens: bool | None = None
    prompt_name: str | None = None  # one of the checkpoint's own, put before each text
    chat_template_kwargs: dict[str, Any] | None = None

    def check_input(self) -> None:
        """Refuse combinations that contradict each other.

        Raises:
            InvalidRequest: they do; `param` names one of the two.
        """
        self.check_truncation()
        if (self.input is None) == (self.messages is None):
            raise InvalidRequest(
                "'input' is required." if self.input is None else "'input' excludes 'messages'.",
                param="input",
                code="missing_required_parameter" if self.input is None else "invalid_value",
            )


class PoolingRequest(EmbeddingsRequest):
    """Fields of `POST /pooling` that are served."""

    task: Literal["embed", "classify", "token_embed"] | None = None  # None: what the model is for
    use_activation: bool | None = None

    def check_task(self, task: str) -> None:
        """Refuse fields that mean nothing to a task.

        Raises:
            InvalidRequest: `param` names the first of them.
        """
        alien = ("dimensions", "normalize") if task == "classify" else ("use_activation",)
        for name in alien:
            if getattr(self, name) is not None:
                raise InvalidRequest(f"'{name}' means nothing to the task '{task}'.", param=name)


def write_vector(vector: memoryview[float], encoding: str | None) -> Any:
    """Write an embedding: a list of numbers, or their bytes in base64."""
    if encoding == "base64":
        return base64.b64encode(vector).decode()
    return vector.tolist()
