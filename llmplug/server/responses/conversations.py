"""Conversations: items that are kept under one id, to which responses add what was said."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmplug.server.errors import HttpError
from llmplug.server.responses.store import StoredConversation
from llmplug.server.schema.responses_reply import make_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.server.responses.input_items import Item
    from llmplug.server.responses.store import ConversationStore, StoredResponse


def start_conversation(
    owner: str, items: Sequence[Item], metadata: dict[str, str]
) -> StoredConversation:
    """Make a conversation that begins with `items`."""
    body = {
        "id": make_id("conv"),
        "object": "conversation",
        "created_at": int(time.time()),
        "metadata": metadata,
    }
    return StoredConversation(owner=owner, body=body, items=items)


async def extend_conversation(conversations: ConversationStore, stored: StoredResponse) -> None:
    """Add what was asked and answered to the conversation that it belongs to.

    What failed or was cancelled was not said; a conversation that was deleted meanwhile stays so.
    """
    conversation = stored.body["conversation"]
    if conversation is None or stored.body["status"] not in {"completed", "incomplete"}:
        return
    items = [*stored.input, *stored.body["output"]]
    await conversations.append_items(stored.owner, conversation["id"], items)


def no_conversation(conversation_id: str) -> HttpError:
    """A conversation that is not there, or another's."""
    return HttpError(
        404,
        f"There is no conversation {conversation_id[:100]!r} here.",
        code="conversation_not_found",
    )
