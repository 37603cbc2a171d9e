"""What is kept of responses, and the promise of whoever keeps it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llmplug.errors import InvalidRequest

if TYPE_CHECKING:
    from llmplug.server.responses.input_items import Item
    from llmplug.server.responses.writer import ResponseEvent
    from llmplug.server.schema.responses_reply import Fields

UNFINISHED = ("queued", "in_progress")  # statuses


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """One response.

    Attributes:
        owner: who may see it: the digest of an API key, "" where there are none.
        body: as its client sees it.
        input: its own items, without those of responses before it.
        alive_at: when whoever writes it was last heard of; unix time, s.
    """

    owner: str
    body: Fields
    input: Sequence[Item]
    alive_at: float = 0.0

    @property
    def id(self) -> str:
        """Of the response."""
        return str(self.body["id"])

    @property
    def previous_id(self) -> str | None:
        """Of the response that it goes on from."""
        found = self.body["previous_response_id"]
        return None if found is None else str(found)

    @property
    def is_finished(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.body["status"] not in UNFINISHED


MakeLast = Callable[[int], "ResponseEvent"]


class ResponseStore(Protocol):
    """Keeps responses; what belongs to another owner is not there.

    It is bounded: what was used longest ago goes first, and what was not used for a while goes.
    """

    async def save(self, stored: StoredResponse, events: Sequence[ResponseEvent] = ()) -> None:
        """Keep a new response."""

    async def update(self, stored: StoredResponse, events: Sequence[ResponseEvent] = ()) -> bool:
        """Replace a response that is not finished; False: it is, or was deleted."""

    async def end(self, stored: StoredResponse, make_last: MakeLast) -> bool:
        """Replace a response that is not finished, in place of whoever writes it.

        Args:
            make_last: makes the last event of its number, which is the next one.
        """

    async def load(self, owner: str, response_id: str) -> StoredResponse | None:
        """Return a response, which counts as used now; None: there is none."""

    async def load_chain(self, owner: str, response_id: str) -> list[StoredResponse]:
        """Return a response and those it goes on from, the oldest first, as far as they are kept.

        All of them count as used now.
        """

    async def find_items(self, owner: str, item_ids: Collection[str]) -> dict[str, Item]:
        """Return those of these items that are kept, by id."""

    async def delete(self, owner: str, response_id: str) -> bool:
        """Forget a response; False: there was none."""

    async def append_events(self, response_id: str, events: Sequence[ResponseEvent]) -> bool:
        """Keep events of a response, and that it is alive; False: it is finished, or deleted."""

    async def read_events(self, response_id: str, after: int) -> list[ResponseEvent]:
        """Return the events of a response with a number above `after`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredConversation:
    """One conversation.

    Attributes:
        owner: as of a response.
        body: as its client sees it, without its items.
        items: in order.
    """

    owner: str
    body: Fields
    items: Sequence[Item]

    @property
    def id(self) -> str:
        """Of the conversation."""
        return str(self.body["id"])


class ConversationStore(Protocol):
    """Keeps conversations, beside responses and bounded with them."""

    async def create(self, stored: StoredConversation) -> None:
        """Keep a new conversation."""

    async def load(self, owner: str, conversation_id: str) -> StoredConversation | None:
        """Return a conversation, which counts as used now; None: there is none."""

    async def set_metadata(
        self, owner: str, conversation_id: str, metadata: dict[str, str]
    ) -> Fields | None:
        """Replace what is said about a conversation, and return it; None: there is none."""

    async def delete(self, owner: str, conversation_id: str) -> bool:
        """Forget a conversation; False: there was none."""

    async def append_items(
        self, owner: str, conversation_id: str, items: Sequence[Item]
    ) -> list[Item] | None:
        """Add items at the end; return them as they are kept; None: there is no conversation.

        An item whose id is taken in it gets another.
        """

    async def delete_item(self, owner: str, conversation_id: str, item_id: str) -> bool:
        """Forget an item; False: there was none."""


def refuse_previous(response_id: str, reason: str) -> InvalidRequest:
    """A response that cannot be gone on from."""
    return InvalidRequest(
        f"'previous_response_id': the response {response_id[:100]!r} {reason}.",
        param="previous_response_id",
        code="previous_response_not_found",
    )
