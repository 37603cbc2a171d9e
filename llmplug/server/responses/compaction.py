"""A long conversation -> what its user said, and one item that stands for all the rest."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmplug.server.schema.responses_reply import make_id

if TYPE_CHECKING:
    from llmplug.server.responses.input_items import Item

COMPACTION = "compaction"
# Share of the context that a summary may take.
SUMMARY_SHARE = 1 / 8
ASK_FOR_SUMMARY = (
    "Sum up our conversation so far, for somebody who goes on with it and has read nothing of it: "
    "what is wanted, what was found out and decided, what was done with which result, what is left "
    "to do. Keep names, numbers and paths as they are. Write the summary alone."
)
_INTRODUCTION = "What was said so far, in short:\n\n"
_MARK = b"llmplug:summary:1:"


def seal_summary(text: str) -> str:
    """Write a summary as the opaque text that an item carries it in.

    It is no secret from its client, who has sent all that it sums up: nothing is encrypted.
    """
    return base64.b64encode(_MARK + text.encode()).decode()


def open_summary(sealed: str) -> str | None:
    """Return the summary in the text of an item; None: it is none of ours."""
    try:
        raw = base64.b64decode(sealed, validate=True)
        return raw.removeprefix(_MARK).decode() if raw.startswith(_MARK) else None
    except (binascii.Error, ValueError):
        return None


def make_compaction(items: Sequence[Item], summary: str) -> list[Item]:
    """Return the items that a conversation is left with: its user's messages, then the summary."""
    kept = [item for item in items if item["type"] == "message" and item["role"] == "user"]
    sealed = seal_summary(summary)
    return [*kept, {"id": make_id("cmp"), "type": COMPACTION, "encrypted_content": sealed}]


def write_summary(item: Item) -> str:
    """What a model is shown of a compaction, as something that it said itself."""
    return _INTRODUCTION + (open_summary(item["encrypted_content"]) or "")
