"""Of a request that was answered, its body is not kept: no garbage collector counts bytes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sanic import Request

from .conftest import StartServer, chat_fields, until
from .fake_engine import endless

LONG = "x" * 2_000_000
CLOSE = {"Connection": "close"}


@pytest.fixture
def has_large_body() -> Iterator[Callable[[], bool]]:
    """Whether a body, or what was read of one, is in memory; what was there before is not ours."""
    gc.collect()
    gc.disable()
    before = {id(value) for value in find_large()}
    yield lambda: any(id(value) not in before for value in find_large())
    gc.enable()


def find_large() -> Iterator[Any]:
    return (each for holder in gc.get_objects() for each in list_values(holder) if is_large(each))


def list_values(holder: Any) -> list[Any]:
    if issubclass(type(holder), Request):  # `isinstance` would wake what loads itself late
        return [holder.body]
    return list(holder.values()) if type(holder) is dict else []


def is_large(value: Any) -> bool:
    return type(value) in {str, bytes} and len(value) >= len(LONG) and value is not LONG


@pytest.mark.parametrize("headers", [{}, CLOSE], ids=["stays open", "closes"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (chat_fields(user=LONG), 200),
        (chat_fields(user=LONG, stream=True), 200),
        (chat_fields(model=LONG), 404),
        (chat_fields(max_tokens=LONG), 400),
        ([LONG], 400),
    ],
)
async def test_answered(
    start: StartServer,
    body: Any,
    status: int,
    headers: dict[str, str],
    has_large_body: Callable[[], bool],
) -> None:
    server = await start()
    response = await server.http.post("/v1/chat/completions", json=body, headers=headers)
    assert response.status_code == status
    await until(lambda: not has_large_body())


async def test_gone(start: StartServer, has_large_body: Callable[[], bool]) -> None:
    server = await start(endless(asyncio.Event()))
    asked = asyncio.create_task(server.chat(user=LONG, stream=True))
    await until(lambda: server.num_in_flight == 1)
    assert has_large_body()
    asked.cancel()
    await until(lambda: server.num_in_flight == 0)
    await until(lambda: not has_large_body())
