"""The request that a conversation be made short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from llmplug.errors import InvalidRequest
from llmplug.server.schema.fields import UNSERVED_EVERYWHERE
from llmplug.server.schema.responses import ResponsesRequest

if TYPE_CHECKING:
    from llmplug.server.schema.fields import Neutral

UNSERVED_IN_COMPACTION: Mapping[str, Neutral] = {
    **UNSERVED_EVERYWHERE,
    "image": lambda value: not value,
}


class CompactionRequest(BaseModel):
    """Fields of `POST /v1/responses/compact` that are served."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    model: str
    input: Any = None  # read_items checks it
    instructions: str | None = None
    previous_response_id: str | None = None
    priority: int | None = None
    cache_salt: str | None = None

    def check(self) -> None:
        """Refuse what says nothing that could be made short.

        Raises:
            InvalidRequest: there is neither input nor a response before it.
        """
        if not self.input and self.previous_response_id is None:
            raise InvalidRequest(
                "'input' or 'previous_response_id' is required.",
                param="input",
                code="missing_required_parameter",
            )

    def to_response(self, max_output_tokens: int) -> ResponsesRequest:
        """The request for the summary: as probable as can be, so that it is the same each time."""
        return ResponsesRequest(
            model=self.model,
            instructions=self.instructions,
            max_output_tokens=max_output_tokens,
            priority=self.priority,
            cache_salt=self.cache_salt,
            store=False,
            temperature=0.0,
        )
