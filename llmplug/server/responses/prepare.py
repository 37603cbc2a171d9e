"""A Responses request, with what came before it -> a generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmplug.errors import ContextLengthExceeded, InvalidRequest
from llmplug.server.prepare_chat import prepare_chat
from llmplug.server.responses.input_items import REFERENCE
from llmplug.server.responses.messages import write_messages
from llmplug.server.responses.store import refuse_previous

if TYPE_CHECKING:
    from llmplug.server.admission import Ticket
    from llmplug.server.generation import Generation
    from llmplug.server.model_service import ModelService
    from llmplug.server.responses.input_items import Item
    from llmplug.server.responses.store import ResponseStore
    from llmplug.server.schema.chat import ChatRequest
    from llmplug.server.schema.messages import Message
    from llmplug.server.schema.responses import ResponsesRequest
    from llmplug.server.service import Service

# What `truncation: auto` keeps free for an answer whose length is not asked for: this share of the
# context. Where not even the last turn leaves as much, a single token will do.
ANSWER_SHARE = 1 / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """For whom a request runs."""

    owner: str
    cache_salt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What a model is shown: what came before, then what is new; references are filled in."""

    old: Sequence[Item]
    new: Sequence[Item]


async def load_previous(store: ResponseStore, owner: str, response_id: str) -> list[Item]:
    """What was said up to the end of a response.

    Raises:
        InvalidRequest: it is not there, not whole, or not finished.
    """
    chain = await store.load_chain(owner, response_id)
    if not chain:
        raise refuse_previous(response_id, "is not here, or not here any more")
    if chain[0].previous_id is not None:
        raise refuse_previous(
            response_id, f"goes on from {chain[0].previous_id!r}, which is not here any more"
        )
    if not chain[-1].is_finished:
        raise refuse_previous(response_id, "is not finished yet")
    return [item for stored in chain for item in (*stored.input, *stored.body["output"])]


async def fill_references(
    store: ResponseStore, owner: str, items: Sequence[Item], param: str = "input"
) -> Sequence[Item]:
    """Put the items that are stored where a request refers to them.

    Raises:
        InvalidRequest: one is not there.
    """
    wanted = {item["id"] for item in items if item["type"] == REFERENCE}
    if not wanted:
        return items
    found = await store.find_items(owner, wanted)
    for i, item in enumerate(items):
        if item["type"] == REFERENCE and item["id"] not in found:
            raise InvalidRequest(
                f"'{param}[{i}].id' is {item['id'][:100]!r}, which is the id of no item that is "
                "stored here.",
                param=f"{param}[{i}].id",
            )
    return [found[item["id"]] if item["type"] == REFERENCE else item for item in items]


async def prepare_response(
    service: Service,
    model: ModelService,
    asked: ResponsesRequest,
    chat: ChatRequest,
    conversation: Conversation,
    ticket: Ticket,
    *,
    extra: dict[str, Any],
    caller: Caller,
) -> Generation:
    """Make the generation that answers a conversation, cut to the context if that is asked for.

    Raises:
        InvalidRequest: the request asks for what this model cannot do; `param` is the chat's.
    """
    old = [item for item in conversation.old if not _is_broken(item)]
    items = [*old, *conversation.new]
    messages = write_messages(asked.instructions, items, len(old))
    if not messages:
        raise InvalidRequest(
            "'input' is required.", param="input", code="missing_required_parameter"
        )

    async def prepare(kept: list[Message]) -> Generation:
        return await prepare_chat(
            service,
            model,
            chat,
            kept,
            ticket,
            extra=extra,
            cache_salt=caller.cache_salt,
            tenant=caller.owner,
        )

    generation = await prepare(messages)
    if asked.truncation != "auto" or model.ready is None:
        return generation
    ready = model.ready
    context = min(ready.context_length, ready.num_pages * ready.page_size)
    room = asked.max_output_tokens or max(1, int(context * ANSWER_SHARE))
    if generation.usage.prompt_tokens + room <= context:
        return generation
    return await _cut(messages, prepare, context, room)


def _is_broken(item: Item) -> bool:
    """Whether it is a call that was cut off: its arguments are no JSON."""
    return item["type"] == "function_call" and item.get("status") == "incomplete"


async def _cut(
    messages: list[Message], prepare: Callable[[list[Message]], Any], context: int, room: int
) -> Generation:
    """Drop turns, the oldest first, until the rest fits; instructions at the start stay.

    A turn begins with the user: templates want that, and no result of a tool loses its call.
    """
    head = messages[:1] if messages[0]["role"] == "system" else []
    starts = [i for i in range(len(head) + 1, len(messages)) if messages[i]["role"] == "user"]
    low, high = 0, len(starts)  # the first start that fits, by halves: a shorter rest is shorter
    fitting: Generation | None = None
    last: Generation | None = None
    while low < high:
        middle = (low + high) // 2
        generation: Generation = await prepare([*head, *messages[starts[middle] :]])
        if generation.usage.prompt_tokens + room <= context:
            fitting, high = generation, middle
        else:
            last, low = generation, middle + 1
    chosen = fitting or last
    if chosen is None or chosen.usage.prompt_tokens >= context:
        raise ContextLengthExceeded(
            f"{context} tokens of context are there, and the last turn alone is longer: "
            "'truncation' drops whole turns.",
            param="input",
        )
    return chosen
