"""Whatever comes to whatever endpoint, nothing is our fault: no 5xx, and errors in their shape.

Bodies are made from the server's own description: a good one, with some fields set to values
that are odd everywhere.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from llmplug.engine.limits import RequestLimits, normalise
from llmplug.types import GenerateRequest

from .conftest import Running, StartServer
from .fake_engine import CONTEXT_LENGTH, FakeEngine

MESSAGES = [{"role": "user", "content": "Hi"}]
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/responses/input_tokens": {"input": "Hi"},
    "/v1/responses/compact": {"input": "Hi"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 5},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/v1/conversations": {},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [1, 2]},
}
NESTED: Any = "end"
for _ in range(100):
    NESTED = [NESTED, {"a": NESTED}] if len(str(NESTED)) < 100 else [NESTED]
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    -(2**63),
    2**64,
    10**30,
    0.5,
    -0.0,
    1e308,
    "",
    "x",
    "\x00",
    "\u2028\ud7ff\U0010ffff",
    "<|end|>",
    "x" * 5000,
    [],
    [None],
    [[]],
    [""],
    [0, "x"],
    [-1],
    [2**70],
    ["x"] * 200,
    {},
    {"": None},
    {"type": "text"},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}},
    {"type": "function", "function": {"name": "x" * 200}},
    [{"type": "function", "function": {"name": "f", "parameters": NESTED}}],
    [{"role": "tool"}],
    [{"role": "assistant", "content": None, "tool_calls": [{}]}],
    NESTED,
]


class StrictEngine(FakeEngine):
    """Refuses what the engine's own limits refuse."""

    LIMITS = RequestLimits(
        vocab_size=257, context_length=CONTEXT_LENGTH, num_cache_tokens=CONTEXT_LENGTH
    )

    def _check(self, request: GenerateRequest) -> None:
        normalise(request, self.LIMITS)


async def properties_of(server: Running, path: str) -> list[str]:
    api = (await server.http.get("/openapi.json")).json()
    body = api["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    name = body["schema"]["$ref"].rpartition("/")[2]
    return sorted(api["components"]["schemas"][name]["properties"])


def check(response: Any, body: dict[str, Any]) -> None:
    assert response.status_code < 500, body
    if response.status_code != 200:
        error = response.json()["error"]
        assert error["message"]
        assert len(response.content) < 4000


@pytest.mark.parametrize("path", GOOD)
async def test_each_field_with_some_odd_values(start: StartServer, path: str) -> None:
    server = await start(engine=StrictEngine())
    source = random.Random(path)
    for name in await properties_of(server, path):
        for value in source.sample(ODD, 8):
            body = {"model": "toy", **GOOD[path], name: value}
            check(await server.http.post(path, json=body), body)


@pytest.mark.parametrize("path", GOOD)
async def test_odd_values_together(start: StartServer, path: str) -> None:
    server = await start(engine=StrictEngine())
    names = await properties_of(server, path)
    source = random.Random(path)
    for _ in range(60):
        chosen = source.sample(names, source.randint(1, min(4, len(names))))
        body = {"model": "toy", **GOOD[path], **{name: source.choice(ODD) for name in chosen}}
        check(await server.http.post(path, json=body), body)


@pytest.mark.slow
@pytest.mark.parametrize("path", GOOD)
async def test_every_field_with_every_odd_value(start: StartServer, path: str) -> None:
    server = await start(engine=StrictEngine())
    for name in await properties_of(server, path):
        for value in ODD:
            body = {"model": "toy", **GOOD[path], name: value}
            check(await server.http.post(path, json=body), body)
