"""What Cohere's endpoints have of their own: the shape of errors, and words for prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from llmplug.errors import InvalidRequest
from llmplug.server.framing import MAX_MESSAGE_CHARS
from llmplug.server.text_input import find_prompt

if TYPE_CHECKING:
    from llmplug.server.errors import ErrorReply
    from llmplug.server.model_service import ModelService

# What a text is embedded for -> the names that checkpoints have for its prompt.
PROMPT_NAMES: Mapping[str, tuple[str, ...]] = {
    "search_query": ("search_query", "query"),
    "search_document": ("search_document", "document", "passage"),
    "classification": ("classification",),
    "clustering": ("clustering",),
}


class CohereFraming:
    """Errors as `/v2/embed` and `/v2/rerank` have them; nothing is streamed there."""

    error_name = "CohereError"
    heartbeat = b""
    end = b""

    def error_body(self, error: ErrorReply, request_id: str) -> bytes:
        """The message, and the id of the request."""
        return msgspec.json.encode({"id": request_id, "message": error.message[:MAX_MESSAGE_CHARS]})

    def error_event(self, error: ErrorReply, request_id: str) -> bytes:
        """The same."""
        return self.error_body(error, request_id)

    def headers(self, request_id: str) -> dict[str, str]:
        """None of its own."""
        return {}


COHERE = CohereFraming()


def find_input_prompt(model: ModelService, input_type: str | None) -> str:
    """Return what the checkpoint puts before texts of a kind.

    Documents often have no prompt where queries have one. A checkpoint without prompts embeds all
    kinds alike.

    Raises:
        InvalidRequest: it has prompts, and none for this kind.
    """
    if input_type is None:
        return find_prompt(model, None)
    prompts = {} if model.pooling is None else model.pooling.prompts
    for name in PROMPT_NAMES[input_type]:
        if name in prompts:
            return prompts[name]
    if input_type == "search_document" or not any(prompts.values()):
        return ""
    raise InvalidRequest(
        f"This model has no prompt for 'input_type' {input_type}; its prompts are: "
        f"{', '.join(sorted(prompts))}.",
        param="input_type",
    )
