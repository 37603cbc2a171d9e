"""What a user of batches does with the official client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
from openai.types import Batch

from .conftest import DEADLINE_S

CHAT: Any = "/v1/chat/completions"  # of any endpoint, as far as types go


def write_lines(*bodies: Any, url: str = CHAT) -> bytes:
    """An input file: `line-0`, `line-1`, ..."""
    lines = [
        {"custom_id": f"line-{i}", "method": "POST", "url": url, "body": body}
        for i, body in enumerate(bodies)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def start_batch(
    client: openai.AsyncOpenAI, data: bytes, endpoint: Any = CHAT, **fields: Any
) -> Batch:
    file = await client.files.create(file=("in.jsonl", data), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", **fields
    )


async def wait_over(client: openai.AsyncOpenAI, batch_id: str) -> Batch:
    """Poll as clients do, with a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            batch = await client.batches.retrieve(batch_id)
            if batch.status in {"completed", "failed", "expired", "cancelled"}:
                return batch
            await asyncio.sleep(0.01)


async def read_answers(client: openai.AsyncOpenAI, file_id: str | None) -> dict[str, Any]:
    """The lines of a result, by custom id, each of which stands once."""
    assert file_id is not None
    text = (await client.files.content(file_id)).text
    lines = [json.loads(line) for line in text.splitlines()]
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found
