"""The description of the API: every route, valid, and read by people without outside assets."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import jsonschema
import pytest

from .conftest import Running, StartServer


async def describe(server: Running, **headers: str) -> dict[str, Any]:
    response = await server.http.get("/openapi.json", headers=headers)
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    return body


async def test_every_route_is_described(start: StartServer) -> None:
    server = await start()
    api = await describe(server)
    routes = {
        (re.sub(r"<(\w+)(?::\w+)?>", r"{\1}", f"/{route.path}"), method.lower())
        for route in server.app.router.routes
        for method in route.methods
    }
    described = {(path, method) for path, methods in api["paths"].items() for method in methods}
    assert described == {each for each in routes if each[1] not in ("head", "options")}
    ids = [each["operationId"] for methods in api["paths"].values() for each in methods.values()]
    assert len(ids) == len(set(ids))
    assert all(each["summary"] for each in _operations(api))


def _operations(api: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for methods in api["paths"].values() for each in methods.values()]


async def test_every_body_has_a_schema(start: StartServer) -> None:
    server = await start()
    api = await describe(server)
    without = {
        path
        for path, methods in api["paths"].items()
        if "post" in methods and "requestBody" not in methods["post"]
    }
    assert without == {"/v1/responses/{response_id}/cancel"}
    for schema in api["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    references = set(re.findall(r"#/components/schemas/(\w+)", str(api)))
    assert references <= api["components"]["schemas"].keys()


async def test_it_takes_what_the_server_takes(start: StartServer) -> None:
    server = await start()
    api = await describe(server)
    message = {"role": "user", "content": "Hi"}
    for path, body, is_good in (
        ("/v1/chat/completions", {"model": "toy", "messages": [message]}, True),
        ("/v1/chat/completions", {"model": "toy", "messages": []}, False),
        ("/v1/chat/completions", {"model": "toy", "messages": [message], "n": "x"}, False),
        ("/v1/chat/completions", {"messages": [message]}, False),
        ("/v1/completions", {"model": "toy", "prompt": [[1, 2]], "stop": ["a"]}, True),
        ("/v1/completions", {"model": "toy", "prompt": "a", "stop": 3}, False),
    ):
        reference = api["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        schema = {**reference["schema"], "components": api["components"]}
        assert jsonschema.Draft202012Validator(schema).is_valid(body) == is_good
        assert (await server.http.post(path, json=body)).is_success == is_good


@pytest.mark.parametrize("fields", [{}, {"return_token_ids": True, "timings": True}])
async def test_replies_are_as_described(start: StartServer, fields: dict[str, Any]) -> None:
    server = await start()
    api = await describe(server)
    more = {"stop": "wor", "prompt_logprobs": 0} if fields else {}
    for path, method, response in (
        ("/v1/chat/completions", "post", await server.chat(**fields, **more)),
        ("/v1/completions", "post", await server.complete(**fields, **more)),
        ("/v1/models", "get", await server.http.get("/v1/models")),
    ):
        content = api["paths"][path][method]["responses"]["200"]["content"]
        schema = {**content["application/json"]["schema"], "components": api["components"]}
        body = response.json()
        jsonschema.Draft202012Validator(schema).validate(body)
        name = schema["$ref"].rpartition("/")[2]
        assert body.keys() <= api["components"]["schemas"][name]["properties"].keys()


async def test_keys_are_described_where_there_are_any(start: StartServer) -> None:
    server = await start(api_keys=("key",))
    assert (await server.http.get("/openapi.json")).status_code == 401
    assert (await server.http.get("/docs")).status_code == 401
    api = await describe(server, **{"x-api-key": "key"})
    assert api["security"] == [{"bearer": []}, {"key": []}]
    assert "security" not in await describe(await start())


class Page(HTMLParser):
    """What a page refers to, and the texts in it."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("href", "src"):
                self.targets.append(value or "")
            if name == "id":
                self.ids.add(value or "")


async def test_the_page_stands_alone(start: StartServer) -> None:
    server = await start()
    response = await server.http.get("/docs")
    assert response.headers["Content-Type"].startswith("text/html")
    page = Page()
    page.feed(response.text)
    assert not page.tags & {"script", "img", "link", "iframe"}
    outside = [each for each in page.targets if not each.startswith("#")]
    assert outside == ["openapi.json"]
    assert {each[1:] for each in page.targets if each.startswith("#")} <= page.ids
    api = await describe(server)
    assert all(f"<code>{path}</code>" in response.text for path in api["paths"])
    assert "reasoning_effort" in response.text
