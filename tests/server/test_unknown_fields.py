"""Fields that nobody knows: listed, or refused where that is wanted."""

from __future__ import annotations

from .conftest import StartServer


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
