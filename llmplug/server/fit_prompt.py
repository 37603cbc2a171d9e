"""What becomes of a prompt that is too long for the context, or longer than a request wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.chat.enough import Enough
from llmplug.engine.ranges import say_count
from llmplug.errors import ContextLengthExceeded
from llmplug.server.schema.generation import WHOLE_CONTEXT

if TYPE_CHECKING:
    from llmplug.server.model_service import ModelService
    from llmplug.server.schema.generation import GenerationFields

MOST_TOKENS = 2**20  # where nobody knows yet how many the model takes
COUNTED_TOKENS = 2**17  # where a prompt is counted only, and may be longer than the context


def choose_enough(asked: GenerationFields, model: ModelService) -> Enough:
    """Say how much of a prompt is wanted; one that has more is cut, or refused."""
    keeps_end = asked.may_truncate and asked.truncation_side != "right"
    return enough_to_answer(model, keeps_end=keeps_end)


def enough_to_answer(model: ModelService, *, keeps_end: bool = False) -> Enough:
    """Say how much of a prompt tells whether it fits the context."""
    return Enough(find_context(model) or MOST_TOKENS, keeps_end)


def enough_to_count(model: ModelService) -> Enough:
    """Say how much of a prompt is wanted that is not answered."""
    return Enough(max(find_context(model) or 0, COUNTED_TOKENS))


def check_counted(num_tokens: int, enough: Enough, param: str) -> None:
    """Refuse to say a number of tokens that is not known.

    Raises:
        ContextLengthExceeded: there are too many to be counted.
    """
    if enough.is_reached(num_tokens):
        raise ContextLengthExceeded(
            f"There are more than {2 * (enough.num_tokens or 0)} tokens, which is as many as this "
            "server counts.",
            param=param,
        )


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
            f"{say_count(len(ids), context or 0)} in its prompt and asks for {max_tokens or 1} "
            "more.",
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
