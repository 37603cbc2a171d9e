"""What becomes of a prompt that is too long for the context, or longer than a request wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.errors import ContextLengthExceeded
from llmplug.server.schema.generation import WHOLE_CONTEXT

if TYPE_CHECKING:
    from llmplug.server.model_service import ModelService
    from llmplug.server.schema.generation import GenerationFields


def fit_prompt(
    ids: list[int], asked: GenerationFields, model: ModelService, max_tokens: int | None
) -> list[int]:
    """Cut a prompt as its request says.

    Without `overflow` an answer is shortened to what the prompt leaves, and a prompt that leaves
    nothing is refused by the engine's limits.

    Args:
        max_tokens: of the answer; None: as many as the context leaves.
    Raises:
        ContextLengthExceeded: `overflow` is `error`, and prompt and answer do not fit together.
    """
    context = find_context(model)
    room = None if context is None else max(1, context - (max_tokens or 1))
    length = asked.truncate_prompt_tokens
    if length is not None:
        ids = cut_ids(ids, room if length == WHOLE_CONTEXT else length, asked.truncation_side)
    if asked.overflow == "truncate":
        ids = cut_ids(ids, room, asked.truncation_side)
    is_over = context is not None and len(ids) + (max_tokens or 1) > context
    if asked.overflow == "error" and is_over:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {context} tokens, but the request has "
            f"{len(ids)} in its prompt and asks for {max_tokens or 1} more.",
            param="prompt",
        )
    return ids


def find_context(model: ModelService) -> int | None:
    """Tokens of prompt and answer together; None: nobody knows before the engine is up."""
    if model.ready is None:
        return model.context_length
    return min(model.ready.context_length, model.ready.num_pages * model.ready.page_size)


def cut_ids(ids: list[int], length: int | None, side: str | None) -> list[int]:
    """Keep `length` ids: the last ones, or the first where the right side is cut."""
    if length is None or len(ids) <= length:
        return ids
    return ids[:length] if side == "right" else ids[-length:]
