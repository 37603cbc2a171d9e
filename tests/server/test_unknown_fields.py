"""Fields that nobody knows: listed, or refused where that is wanted."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import StartServer

MESSAGES = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 5},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [1]},
}


async def test_a_request_may_want_them_refused(start: StartServer) -> None:
    server = await start()
    server.http.headers["X-Llmplug-Strict"] = "true"
    for response in (
        await server.chat(temprature=1, n=1, other=2),
        await server.complete(temprature=1, n=1, other=2, stream=True),
    ):
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("unknown_parameter", "temprature")
        assert "'temprature', 'other'" in error["message"]
    assert (await server.chat(user="me", n=1)).status_code == 200
    messages = [{"role": "user", "content": "Hi", "odd": 1}]
    assert (await server.chat(messages=messages)).json()["error"]["param"] == "messages[0].odd"
    assert len(server.engine.requests) == 1


async def test_the_config_may_want_them_refused(start: StartServer) -> None:
    server = await start(strict_fields=True)
    assert (await server.chat(temprature=1)).status_code == 400
    assert (await server.chat()).status_code == 200


async def test_they_are_listed_otherwise(start: StartServer) -> None:
    server = await start()
    for header in ("false", ""):
        server.http.headers["X-Llmplug-Strict"] = header
        response = await server.chat(temprature=1)
        assert response.headers["X-Llmplug-Ignored"] == "temprature"


@pytest.mark.parametrize("path", BODIES)
async def test_every_protocol_refuses_them_where_that_is_wanted(
    start: StartServer, path: str
) -> None:
    server = await start(strict_fields=True)
    body = {"model": "toy", **BODIES[path]}
    assert (await server.http.post(path, json=body)).status_code == 200
    response = await server.http.post(path, json={**body, "temprature": 1})
    assert response.status_code == 400
    assert "'temprature'" in response.json()["error"]["message"]
