"""OpenAI's file and batch objects."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmplug.server.batches.lines import Problem

Fields = dict[str, Any]

WINDOW_S = 24 * 3600  # of `completion_window: 24h`, the only one there is
UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file, but for what it holds; the columns of its table."""

    id: str
    owner: str
    purpose: str
    filename: str
    num_bytes: int
    created_at: int  # unix time, s
    expires_at: int

    def to_json(self) -> Fields:
        """OpenAI's file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.num_bytes,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


def make_file(
    owner: str, purpose: str, filename: str, num_bytes: int, expires_at: int
) -> StoredFile:
    """Describe a new file."""
    return StoredFile(
        id=f"file-{uuid.uuid4().hex}",
        owner=owner,
        purpose=purpose,
        filename=filename,
        num_bytes=num_bytes,
        created_at=int(time.time()),
        expires_at=expires_at,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A batch.

    Attributes:
        server: the one that runs it.
        output_lifetime_s: of its files; None: as long as all files.
        body: as its client sees it.
    """

    owner: str
    server: str
    output_lifetime_s: int | None
    body: Fields

    @property
    def id(self) -> str:
        """Of the batch."""
        return str(self.body["id"])

    @property
    def is_over(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.body["status"] not in UNFINISHED


def make_batch(endpoint: str, input_file_id: str, metadata: dict[str, str] | None) -> Fields:
    """OpenAI's batch object of a batch that is new."""
    now = int(time.time())
    return {
        "id": f"batch_{uuid.uuid4().hex}",
        "object": "batch",
        "endpoint": endpoint,
        "errors": None,
        "input_file_id": input_file_id,
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": now,
        "in_progress_at": None,
        "expires_at": now + WINDOW_S,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": metadata,
    }


def change_status(body: Fields, status: str) -> Fields:
    """Return a batch with another status, and the time of the change."""
    return {**body, "status": status, f"{status}_at": int(time.time())}


def note_problems(body: Fields, problems: Sequence[Problem]) -> Fields:
    """Return a batch that failed for what is wrong with its input."""
    data = [
        {
            "code": each.code,
            "line": each.number or None,
            "message": each.message,
            "param": each.param,
        }
        for each in problems
    ]
    return {**change_status(body, "failed"), "errors": {"object": "list", "data": data}}
