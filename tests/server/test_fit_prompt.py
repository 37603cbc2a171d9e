"""What becomes of prompts that are too long."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Running, StartServer
from .fake_engine import ids_of

CONTEXT = 160  # what the cache of the tests' engine holds: 10 pages of 16
TEXT = "".join(chr(ord("a") + i % 26) for i in range(200))


async def sent(server: Running, **fields: Any) -> list[int]:
    response = await server.complete(**fields)
    assert response.status_code == 200, response.text
    return server.engine.requests[-1].prompt_ids


async def test_prompts_are_cut_where_the_request_says(start: StartServer) -> None:
    server = await start()
    ids = ids_of(TEXT)
    for fields, expected in (
        ({}, ids),
        ({"truncate_prompt_tokens": 5}, ids[-5:]),
        ({"truncate_prompt_tokens": 5, "truncation_side": "right"}, ids[:5]),
        ({"truncate_prompt_tokens": 500}, ids),
        ({"truncate_prompt_tokens": -1, "max_tokens": 10}, ids[-(CONTEXT - 10) :]),
        ({"overflow": "truncate", "max_tokens": 100}, ids[-60:]),
        ({"overflow": "truncate", "max_tokens": 100, "truncation_side": "right"}, ids[:60]),
        ({"overflow": "truncate", "max_tokens": 1000}, ids[-1:]),
        ({"overflow": "clamp", "max_tokens": 1000}, ids),
    ):
        assert await sent(server, prompt=TEXT, **fields) == expected


async def test_chats_are_cut_too(start: StartServer) -> None:
    server = await start()
    whole = (await server.chat(return_token_ids=True)).json()["prompt_token_ids"]
    await server.chat(truncate_prompt_tokens=4)
    assert server.engine.requests[-1].prompt_ids == whole[-4:]
    response = await server.chat(overflow="error", max_completion_tokens=CONTEXT - len(whole) + 1)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    response = await server.chat(overflow="error", max_completion_tokens=CONTEXT - len(whole))
    assert response.status_code == 200


async def test_an_echo_is_of_what_is_left(start: StartServer) -> None:
    server = await start()
    body = (
        await server.complete(prompt=TEXT, truncate_prompt_tokens=3, echo=True, max_tokens=5)
    ).json()
    assert body["choices"][0]["text"].startswith(TEXT[-3:] + "Hello")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncation_side": "left"}, "truncation_side"),
        ({"truncate_prompt_tokens": 5, "truncation_side": "up"}, "truncation_side"),
        ({"overflow": "ignore"}, "overflow"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"deadline_ms": 10**12}, "deadline_ms"),
        ({"prompt_logprobs": True}, "prompt_logprobs"),
        ({"timings": "yes"}, "timings"),
    ],
)
async def test_refusals(start: StartServer, fields: dict[str, Any], param: str) -> None:
    server = await start()
    for response in (await server.chat(**fields), await server.complete(**fields)):
        assert response.status_code == 400
        assert response.json()["error"]["param"] == param
    assert server.engine.requests == []
