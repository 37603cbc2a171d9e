"""Conversations: kept items that responses go on with, over HTTP and with the official client."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types.conversations import (
    Conversation,
    ConversationDeletedResource,
    ConversationItem,
    ConversationItemList,
)

from .conftest import Running, StartServer
from .fake_engine import fail_after, speak
from .strict_openai import check_openai
from .test_responses import ask, respond
from .test_responses_background import begin, ended
from .test_responses_requests import shown_messages, user


async def call(server: Running, method: str, path: str, body: Any = None, kind: Any = None) -> Any:
    reply = await server.http.request(method, f"/v1/conversations{path}", json=body)
    assert reply.status_code == 200, reply.text
    if kind is not None:
        check_openai(reply.json(), kind)
    return reply.json()


async def create(server: Running, **fields: Any) -> str:
    made = await call(server, "POST", "", fields, Conversation)
    return str(made["id"])


async def texts(server: Running, conversation_id: str) -> list[str]:
    page = await call(
        server, "GET", f"/{conversation_id}/items?order=asc", None, ConversationItemList
    )
    return [part["text"] for item in page["data"] for part in item["content"]]


async def test_life_of_a_conversation(start: StartServer) -> None:
    server = await start()
    made = await call(server, "POST", "", {"metadata": {"a": "b"}, "items": [user("x")]})
    path = f"/{made['id']}"
    assert made["metadata"] == {"a": "b"}
    assert await call(server, "GET", path, None, Conversation) == made
    changed = await call(server, "POST", path, {"metadata": {"c": "d"}}, Conversation)
    assert changed == {**made, "metadata": {"c": "d"}}
    assert await call(server, "GET", path) == changed
    gone = await call(server, "DELETE", path, None, ConversationDeletedResource)
    assert gone == {"id": made["id"], "object": "conversation.deleted", "deleted": True}
    for method in ("GET", "DELETE"):
        reply = await server.http.request(method, f"/v1/conversations{path}")
        assert reply.json()["error"]["code"] == "conversation_not_found"
        assert reply.status_code == 404


async def test_items(start: StartServer) -> None:
    server = await start()
    conversation_id = await create(server)
    body = {"items": [user("a"), {"role": "assistant", "content": "b"}]}
    path = f"/{conversation_id}/items"
    added = await call(server, "POST", path, body, ConversationItemList)
    first, second = added["data"]
    assert (added["first_id"], added["last_id"]) == (first["id"], second["id"])
    again = await call(server, "POST", path, {"items": [first]}, ConversationItemList)
    assert again["data"][0]["id"] != first["id"]  # no id comes twice in a conversation
    assert await texts(server, conversation_id) == ["a", "b", "a"]
    shown = await call(server, "GET", f"{path}/{second['id']}", None, ConversationItem)
    assert shown == second
    await call(server, "DELETE", f"{path}/{second['id']}", None, Conversation)
    assert await texts(server, conversation_id) == ["a", "a"]
    for method in ("GET", "DELETE"):
        reply = await server.http.request(method, f"/v1/conversations{path}/{second['id']}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "item_not_found")


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("is_stored", [False, True])
async def test_responses_go_on_with_it(
    start: StartServer, is_streamed: bool, is_stored: bool
) -> None:
    server = await start(speak("Paris."))
    conversation_id = await create(server, items=[user("Capital of France?")])
    body = await ask(
        server, is_streamed, conversation={"id": conversation_id}, input="Say.", store=is_stored
    )
    assert body["conversation"] == {"id": conversation_id}
    server.engine.script = speak("Rome.")
    await ask(server, is_streamed, conversation=conversation_id, input="And Italy?")
    assert [each["content"] for each in shown_messages(server)] == [
        "Capital of France?",
        "Say.",
        "Paris.",
        "And Italy?",
    ]
    said = await texts(server, conversation_id)
    assert said == ["Capital of France?", "Say.", "Paris.", "And Italy?", "Rome."]


async def test_background_adds_to_it(start: StartServer) -> None:
    server = await start(speak("Paris."))
    conversation_id = await create(server)
    made = await begin(server, conversation=conversation_id)
    await ended(server, made["id"])
    reply = await ask(server, False, conversation=conversation_id, input="Sure?")
    assert reply["status"] == "completed"
    assert await texts(server, conversation_id) == ["Hi", "Paris.", "Sure?", "Paris."]


async def test_what_failed_was_not_said(start: StartServer) -> None:
    server = await start(fail_after(RuntimeError("no"), "a"))
    conversation_id = await create(server)
    for is_streamed in (False, True):
        await respond(server, conversation=conversation_id, stream=is_streamed)
    assert await texts(server, conversation_id) == []


async def test_keys_do_not_see_each_other(start: StartServer) -> None:
    server = await start(api_keys=({"key": "one"}, {"key": "two"}))
    one, two = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
    made = await server.http.post("/v1/conversations", json={"items": [user("x")]}, headers=one)
    path = f"/v1/conversations/{made.json()['id']}"
    items = await server.http.get(f"{path}/items", headers=one)
    item = items.json()["data"][0]
    ask_two = {"model": "toy", "input": "x", "conversation": made.json()["id"]}
    for reply in (
        await server.http.get(path, headers=two),
        await server.http.post(path, json={"metadata": {}}, headers=two),
        await server.http.delete(path, headers=two),
        await server.http.get(f"{path}/items", headers=two),
        await server.http.post(f"{path}/items", json={"items": [user("y")]}, headers=two),
        await server.http.delete(f"{path}/items/{item['id']}", headers=two),
        await server.http.post("/v1/responses", json=ask_two, headers=two),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "conversation_not_found")
    assert (await server.http.get(f"{path}/items", headers=one)).json() == items.json()


async def test_ids_of_one_kind_are_not_those_of_another(start: StartServer) -> None:
    server = await start()
    conversation_id = await create(server)
    response_id = (await ask(server, False))["id"]
    for method in ("GET", "DELETE"):
        for path in (f"/v1/responses/{conversation_id}", f"/v1/conversations/{response_id}"):
            assert (await server.http.request(method, path)).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("", {"items": [{"role": "user"}]}, "items[0].content"),
        ("", {"items": [{"type": "item_reference", "id": "msg_no"}]}, "items[0].id"),
        ("", {"metadata": {"a": 1}}, "metadata.a"),
        ("", {"metadata": {"a": "x" * 513}}, "metadata"),
        ("", {"colour": "red"}, "colour"),
        ("/conv_no", {}, "metadata"),
        ("/conv_no", {"metadata": {}, "items": []}, "items"),
        ("/conv_no/items", {"items": []}, "items"),
        ("/conv_no/items", {}, "items"),
    ],
)
async def test_refused_by_name(start: StartServer, path: str, body: Any, param: str) -> None:
    server = await start()
    reply = await server.http.post(f"/v1/conversations{path}", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"conversation": 3}, "conversation"),
        ({"conversation": {}}, "conversation"),
        ({"conversation": "conv_a", "previous_response_id": "resp_a"}, "previous_response_id"),
    ],
)
async def test_refused_in_responses(start: StartServer, fields: Any, param: str) -> None:
    reply = await respond(await start(), **fields)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_official_client(start: StartServer) -> None:
    server = await start(speak("Hello"))
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10
    ) as client:
        items: list[Any] = [{"type": "message", "role": "user", "content": "a"}]
        made = await client.conversations.create(items=items, metadata={"a": "b"})
        await client.conversations.update(made.id, metadata={"c": "d"})
        assert (await client.conversations.retrieve(made.id)).metadata == {"c": "d"}
        await client.conversations.items.create(made.id, items=items)
        reply = await client.responses.create(model="toy", input="b", conversation=made.id)
        assert reply.conversation is not None
        assert reply.conversation.id == made.id
        found = [each async for each in client.conversations.items.list(made.id, limit=2)]
        assert len(found) == 4
        item = await client.conversations.items.retrieve(str(found[0].id), conversation_id=made.id)
        assert item == found[0]
        await client.conversations.items.delete(str(found[0].id), conversation_id=made.id)
        assert (await client.conversations.delete(made.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.conversations.retrieve(made.id)
