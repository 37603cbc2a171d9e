"""What a request for vectors may ask for: checked here, behind every frontend.

The client calls `check_pooling` before it sends, the engine when it takes a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llmplug.engine.ranges import say_count
from llmplug.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter

if TYPE_CHECKING:
    from llmplug.types import PoolRequest

MAX_TEXTS = 2048  # OpenAI's bound of a request
MAX_NAME_CHARS = 256
INT32 = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """The bounds that one engine sets."""

    task: Literal["embed", "classify"]
    vocab_size: int
    max_tokens: int  # of one text
    width: int  # of an embedding
    token_width: int  # of the vector of one token


def check_pooling(request: PoolRequest, limits: PoolLimits) -> None:
    """Refuse what an engine cannot do.

    Raises:
        ContextLengthExceeded: a text is too long.
        UnsupportedParameter: the model is for something else.
        InvalidRequest: a value is out of range; `param` names it.
    """
    if request.task != limits.task and not (
        request.task == "token_embed" and limits.task == "embed"
    ):
        raise UnsupportedParameter(
            f"This model is not made for the task '{request.task}': it is for '{limits.task}'.",
            param="task",
        )
    if not 0 < len(request.request_id) <= MAX_NAME_CHARS or len(request.tenant) > MAX_NAME_CHARS:
        raise InvalidRequest("request_id or tenant has no proper length.")
    if not -INT32 <= request.priority < INT32:
        raise InvalidRequest("priority is out of range.", param="priority")
    if not request.prompts or len(request.prompts) > MAX_TEXTS:
        raise InvalidRequest(
            f"input holds {len(request.prompts)} texts; it must hold 1 to {MAX_TEXTS}.",
            param="input",
        )
    width = limits.token_width if request.task == "token_embed" else limits.width
    if request.dimensions is not None and not 1 <= request.dimensions <= width:
        raise InvalidRequest(
            f"dimensions is {request.dimensions}; it must be from 1 to {width}.",
            param="dimensions",
        )
    for i, prompt in enumerate(request.prompts):
        _check_prompt(f"input[{i}]", prompt, limits)
    if request.type_ids and [len(each) for each in request.type_ids] != [
        len(each) for each in request.prompts
    ]:
        raise InvalidRequest("type_ids must be as many as the tokens.", param="type_ids")


def _check_prompt(name: str, prompt: list[int], limits: PoolLimits) -> None:
    if not prompt:
        raise InvalidRequest(f"{name} is empty; send at least one token.", param=name)
    if len(prompt) > limits.max_tokens:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {limits.max_tokens} tokens, but {name} has "
            f"{say_count(len(prompt), limits.max_tokens)}; shorten it, or have it cut.",
            param=name,
        )
    for token_id in prompt:
        # `type is`: bool is an int, and True is no token.
        if type(token_id) is not int or not 0 <= token_id < limits.vocab_size:
            raise InvalidRequest(
                f"{name} holds a token id that is not an integer from 0 to "
                f"{limits.vocab_size - 1}.",
                param=name,
            )
