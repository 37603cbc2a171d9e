"""Anthropic's client, against /v1/messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

anthropic = pytest.importorskip("anthropic")

pytestmark = pytest.mark.slow
MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]
# Newer clients mark `temperature` as old and warn; greedy it must be, to be compared.
ASKED: Any = {"model": "chat", "max_tokens": 40, "extra_body": {"temperature": 0}}
TOOL: Any = {
    "name": "find_town",
    "description": "Finds a town.",
    "input_schema": {
        "type": "object",
        "properties": {"name": {"enum": ["Paris", "Oslo"]}},
        "required": ["name"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.root, api_key=server.key, max_retries=0) as client:
        yield client


def test_message(client: Any) -> None:
    whole = client.messages.create(messages=MESSAGES, **ASKED)
    assert "Paris" in whole.content[0].text
    with client.messages.stream(messages=MESSAGES, **ASKED) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens


async def test_async_message(server: Any, client: Any) -> None:
    whole = client.messages.create(messages=MESSAGES, **ASKED)
    async with anthropic.AsyncAnthropic(
        base_url=server.root, api_key=server.key, max_retries=0
    ) as other:
        same = await other.messages.create(messages=MESSAGES, **ASKED)
    assert same.content == whole.content


def test_forced_call(client: Any) -> None:
    choice = {"type": "tool", "name": "find_town"}
    with client.messages.stream(
        messages=MESSAGES, tools=[TOOL], tool_choice=choice, **ASKED
    ) as stream:
        final = stream.get_final_message()
    (call,) = [block for block in final.content if block.type == "tool_use"]
    assert call.input["name"] in ("Paris", "Oslo")
    assert final.stop_reason == "tool_use"


def test_number_of_tokens(client: Any) -> None:
    counted = client.messages.count_tokens(model="chat", messages=MESSAGES)
    whole = client.messages.create(messages=MESSAGES, **ASKED)
    usage = whole.usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_errors(server: Any, client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**{**ASKED, "model": "nobody"}, messages=MESSAGES)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        client.messages.create(**{**ASKED, "max_tokens": 0}, messages=MESSAGES)
    stranger = anthropic.Anthropic(base_url=server.root, api_key="wrong", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError):
        stranger.messages.create(messages=MESSAGES, **ASKED)
