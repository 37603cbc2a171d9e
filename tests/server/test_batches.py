"""Files and batches with the official client, as its users use them, over a scripted engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types import Batch

from llmplug.config import BatchesConfig

from .conftest import DEADLINE_S, Running, StartServer, chat_fields
from .fake_engine import speak

CHAT = "/v1/chat/completions"


def write_lines(*bodies: Any, url: str = CHAT) -> bytes:
    """An input file: `line-0`, `line-1`, ..."""
    lines = [
        {"custom_id": f"line-{i}", "method": "POST", "url": url, "body": body}
        for i, body in enumerate(bodies)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.fixture
async def server(start: StartServer, tmp_path: Any) -> Running:
    return await start(speak("Hello"), batches=BatchesConfig(path=str(tmp_path)))


@pytest.fixture
async def client(server: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10
    ) as client:
        yield client


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


async def test_chats(server: Running, client: openai.AsyncOpenAI) -> None:
    bodies = [chat_fields(max_tokens=1 + i) for i in range(20)]
    batch = await start_batch(client, write_lines(*bodies), metadata={"a": "b"})
    batch = await wait_over(client, batch.id)
    assert (batch.status, batch.error_file_id, batch.metadata) == ("completed", None, {"a": "b"})
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 20, "completed": 20, "failed": 0}
    answers = await read_answers(client, batch.output_file_id)
    assert list(answers) == [f"line-{i}" for i in range(20)]
    single = (await server.chat(max_tokens=1)).json()
    told = answers["line-0"]["response"]["body"]
    assert {**told, "id": "", "created": 0} == {**single, "id": "", "created": 0}
