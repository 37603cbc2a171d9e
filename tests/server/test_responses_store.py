"""What is stored of responses: through the endpoints, and the file itself."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import Response, ResponseItemList

from llmplug.config import ResponsesConfig
from llmplug.server.responses.sqlite_file import SqliteFile
from llmplug.server.responses.sqlite_responses import SqliteResponses
from llmplug.server.responses.store import StoredResponse
from llmplug.server.responses.writer import ResponseEvent
from llmplug.server.sqlite_thread import IN_MEMORY

from .conftest import Running, StartServer, until
from .fake_engine import endless, speak
from .strict_openai import check_openai
from .test_responses import TOOLS, ask, read_stream, respond
from .test_responses_requests import shown_messages, user
from .test_tools import DIALECT, write_call

DAY_S = 86400.0


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_stored_response_is_what_was_sent(start: StartServer, is_streamed: bool) -> None:
    server = await start()
    body = await ask(server, is_streamed)
    reply = await server.http.get(f"/v1/responses/{body['id']}")
    assert (reply.status_code, reply.json()) == (200, body)
    check_openai(reply.json(), Response)


async def test_not_stored(start: StartServer) -> None:
    server = await start()
    body = await ask(server, False, store=False)
    reply = await server.http.get(f"/v1/responses/{body['id']}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "response_not_found")


async def test_deleted_is_gone(start: StartServer) -> None:
    server = await start()
    body = await ask(server, False)
    path = f"/v1/responses/{body['id']}"
    reply = await server.http.delete(path)
    assert reply.json() == {"id": body["id"], "object": "response", "deleted": True}
    assert (await server.http.get(path)).status_code == 404
    assert (await server.http.delete(path)).status_code == 404
    reply = await respond(server, previous_response_id=body["id"])
    assert reply.json()["error"]["code"] == "previous_response_not_found"


async def test_conversation_goes_on(start: StartServer) -> None:
    """Instructions are of one request; everything else that was said before is shown again."""
    server = await start(speak(write_call("time")), dialect=DIALECT)
    first = await ask(server, False, instructions="Be kind.", input="What time?", tools=TOOLS)
    call_id = first["output"][0]["call_id"]
    server.engine.script = speak("Noon.")
    result = {"type": "function_call_output", "call_id": call_id, "output": "12:00"}
    second = await ask(server, True, input=[result], previous_response_id=first["id"])
    third = await ask(server, False, input="Sure?", previous_response_id=second["id"])
    assert third["previous_response_id"] == second["id"]
    shown = shown_messages(server)
    assert shown == [
        user("What time?"),
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": "time", "arguments": "{}"},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call_id, "content": "12:00"},
        {"role": "assistant", "content": "Noon."},
        user("Sure?"),
    ]


async def test_item_reference(start: StartServer) -> None:
    server = await start(speak("Paris."))
    first = await ask(server, False)
    items = [{"type": "item_reference", "id": first["output"][0]["id"]}, user("Sure?")]
    await ask(server, False, input=items)
    assert shown_messages(server) == [{"role": "assistant", "content": "Paris."}, user("Sure?")]


async def test_keys_do_not_see_each_other(start: StartServer) -> None:
    server = await start(api_keys=({"key": "one"}, {"key": "two"}))
    one, two = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
    body = {"model": "toy", "input": "Hi"}
    made = (await server.http.post("/v1/responses", json=body, headers=one)).json()
    path = f"/v1/responses/{made['id']}"
    assert (await server.http.get(path, headers=one)).json() == made
    for reply in (
        await server.http.get(path, headers=two),
        await server.http.get(f"{path}/input_items", headers=two),
        await server.http.delete(path, headers=two),
        await server.http.post(f"{path}/cancel", headers=two),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "response_not_found")
    reference = {"type": "item_reference", "id": made["output"][0]["id"]}
    for fields in ({"previous_response_id": made["id"]}, {"input": [reference]}):
        reply = await server.http.post("/v1/responses", json={**body, **fields}, headers=two)
        assert reply.status_code == 400
    assert (await server.http.get(path, headers=one)).status_code == 200


async def list_items(server: Running, response_id: str, **query: Any) -> dict[str, Any]:
    reply = await server.http.get(f"/v1/responses/{response_id}/input_items", params=query)
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    check_openai(body, ResponseItemList)
    return body


async def test_input_items(start: StartServer) -> None:
    server = await start(speak("One."), dialect=DIALECT)
    call = {"type": "function_call", "call_id": "c", "name": "time", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "12:00"}
    custom = {"type": "custom_tool_call", "call_id": "d", "name": "run", "input": "1"}
    output = {"type": "custom_tool_call_output", "call_id": "d", "output": "1"}
    items = [user("a"), call, custom, result, output, {"role": "assistant", "content": "b"}]
    first = await ask(server, False, input=[*items, user("c")])
    second = await ask(server, False, input="d", previous_response_id=first["id"])
    every = await list_items(server, second["id"], order="asc")
    kinds = [item["type"] for item in every["data"]]
    assert kinds == [
        "message",
        "function_call",
        "custom_tool_call",
        "function_call_output",
        "custom_tool_call_output",
        *["message"] * 4,
    ]
    ids = [item["id"] for item in every["data"]]
    assert len(set(ids)) == len(ids)
    assert (every["has_more"], every["first_id"], every["last_id"]) == (False, ids[0], ids[-1])
    newest = await list_items(server, second["id"])
    assert [item["id"] for item in newest["data"]] == ids[::-1]

    paged: list[str] = []
    after: dict[str, Any] = {}
    while True:
        page = await list_items(server, second["id"], order="asc", limit=2, **after)
        paged += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert paged == ids


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "msg_no"}, "after"),
    ],
)
async def test_bad_pages(start: StartServer, query: dict[str, str], param: str) -> None:
    server = await start()
    body = await ask(server, False)
    reply = await server.http.get(f"/v1/responses/{body['id']}/input_items", params=query)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_it_survives_a_restart(start: StartServer, tmp_path: Path) -> None:
    settings = {"responses": ResponsesConfig(path=str(tmp_path / "state" / "r.sqlite"))}
    first, second = await start(**settings), await start(**settings)
    body = await ask(first, False)
    assert (await second.http.get(f"/v1/responses/{body['id']}")).json() == body
    mode = (tmp_path / "state" / "r.sqlite").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


MakeStore = Callable[..., SqliteResponses]


@pytest.fixture
async def make_store(tmp_path: Path) -> AsyncIterator[MakeStore]:
    files = []

    def make(path: Path = tmp_path / "r.sqlite", **settings: Any) -> SqliteResponses:
        file = SqliteFile(path, **{"max_bytes": 2**20, "ttl_s": DAY_S, **settings})
        files.append(file)
        return SqliteResponses(file)

    yield make
    for file in files:
        await file.close()


def make_stored(name: str, *, previous: str | None = None, **more: Any) -> StoredResponse:
    body: dict[str, Any] = {
        "id": name,
        "previous_response_id": previous,
        "status": "completed",
        "output": [],
    }
    return StoredResponse(owner="me", body={**body, **more}, input=[{"id": f"i_{name}", "x": name}])


def make_event(number: int) -> ResponseEvent:
    return ResponseEvent(number, "response.x", b'{"n":%d}' % number)


async def kept(store: SqliteResponses, names: list[str]) -> list[str]:
    return [name for name in names if await store.load("me", name) is not None]


async def test_oldest_used_go_first(make_store: MakeStore) -> None:
    """A hundred of 100 kB each do not fit into 1 MiB; one that is gone on from is used."""
    store = make_store()
    names = [f"r{i}" for i in range(100)]
    for name in names:
        await store.save(make_stored(name, text="x" * 100_000))
        await store.load_chain("me", "r0")
    left = await kept(store, names)
    assert left[0] == "r0"
    assert left[1:] == names[-len(left) + 1 :]
    assert 2 <= len(left) <= 11


async def test_unfinished_are_never_evicted(make_store: MakeStore) -> None:
    store = make_store(max_bytes=1)
    await store.save(make_stored("a", status="in_progress"))
    await store.save(make_stored("b"))
    await store.save(make_stored("c"))
    assert await kept(store, ["a", "b", "c"]) == ["a", "c"]


async def test_unused_expire(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store()
    now = time.time()
    await store.save(make_stored("old"))
    await store.save(make_stored("used"))
    monkeypatch.setattr(time, "time", lambda: now + 0.9 * DAY_S)
    await store.load_chain("me", "used")
    monkeypatch.setattr(time, "time", lambda: now + 1.1 * DAY_S)
    assert await kept(store, ["old", "used"]) == ["used"]
    await store.save(make_stored("new"))
    assert await store.find_items("me", ["i_old"]) == {}


async def test_chain_goes_as_far_as_it_is_kept(make_store: MakeStore) -> None:
    store = make_store()
    await store.save(make_stored("a"))
    await store.save(make_stored("b", previous="a"))
    await store.save(make_stored("c", previous="b"))
    assert [each.id for each in await store.load_chain("me", "c")] == ["a", "b", "c"]
    assert await store.load_chain("you", "c") == []
    await store.delete("me", "a")
    assert [each.id for each in await store.load_chain("me", "c")] == ["b", "c"]


async def test_finished_response_is_not_replaced(make_store: MakeStore) -> None:
    store = make_store()
    await store.save(make_stored("a", status="queued"), [make_event(0)])
    assert await store.append_events("a", [make_event(1)])
    assert await store.update(make_stored("a", status="cancelled"), [make_event(2)])
    assert not await store.update(make_stored("a"), [make_event(3)])
    assert not await store.append_events("a", [make_event(3)])
    stored = await store.load("me", "a")
    assert stored is not None
    assert stored.body["status"] == "cancelled"
    assert [each.number for each in await store.read_events("a", 0)] == [1, 2]


async def test_deleted_leaves_nothing_in_the_file(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    await store.save(make_stored("a", secret="hunter2"), [make_event(0)])
    assert await store.delete("me", "a")
    await store._file.close()
    with sqlite3.connect(tmp_path / "r.sqlite") as db:
        for table in ("entries", "items", "events"):
            assert db.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (0,)
        assert db.execute("SELECT num_bytes FROM size").fetchone() == (0,)
    db.close()
    assert b"hunter2" not in (tmp_path / "r.sqlite").read_bytes()


async def test_two_processes_may_write(make_store: MakeStore) -> None:
    """Two stores over one file, as two processes have them."""
    stores = [make_store(), make_store()]
    names = [f"r{i}" for i in range(40)]
    await asyncio.gather(*(stores[i % 2].save(make_stored(name)) for i, name in enumerate(names)))
    for store in stores:
        assert await kept(store, names) == names


async def test_event_loop_never_waits_for_the_disk(make_store: MakeStore) -> None:
    store = make_store(IN_MEMORY)
    threads = set()
    await store.save(make_stored("a"))
    await store._file.run(lambda _: threads.add(threading.get_ident()))
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_client_that_goes_away_leaves_nothing(start: StartServer, is_streamed: bool) -> None:
    server = await start(endless())
    fields = {"model": "toy", "input": "Hi", "stream": is_streamed}
    asking = asyncio.create_task(server.http.post("/v1/responses", json=fields))
    await until(lambda: server.engine.num_open == 1)
    asking.cancel()
    await until(lambda: server.engine.num_open == 0)
    store = server.app.ctx.responses
    rows = await store._file.run(lambda db: db.execute("SELECT COUNT(*) FROM entries").fetchone())
    assert rows == (0,)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_store_that_fails_is_told(
    start: StartServer, tmp_path: Path, is_streamed: bool
) -> None:
    """An answer that could not be kept is not called complete."""
    (tmp_path / "r.sqlite").write_bytes(b"no database " * 1000)
    settings = {"responses": ResponsesConfig(path=str(tmp_path / "r.sqlite"))}
    server = await start(**settings)
    reply = await respond(server, stream=is_streamed)
    if is_streamed:
        last = read_stream(reply.text)[-1]["response"]
        assert (last["status"], last["completed_at"]) == ("failed", None)
        message = last["error"]["message"]
    else:
        assert (reply.status_code, reply.json()["error"]["code"]) == (500, "store_failed")
        message = reply.json()["error"]["message"]
    assert "'store'" in message
    assert (await respond(server, store=False)).status_code == 200


async def test_custom_calls_are_listed_with_a_status(start: StartServer) -> None:
    server = await start(speak(write_call("run", input="1+1")), dialect=DIALECT)
    first = await ask(server, False, tools=[{"type": "custom", "name": "run"}])
    call_id = first["output"][0]["call_id"]
    output = {"type": "custom_tool_call_output", "call_id": call_id, "output": "2"}
    second = await ask(server, False, input=[output], previous_response_id=first["id"])
    kinds = [item["type"] for item in (await list_items(server, second["id"]))["data"]]
    assert kinds == ["custom_tool_call_output", "custom_tool_call", "message"]


async def test_end_by_another_gets_the_next_number(make_store: MakeStore) -> None:
    store = make_store()
    await store.save(make_stored("a", status="queued"), [make_event(0)])
    assert await store.append_events("a", [make_event(1), make_event(2)])
    assert await store.end(make_stored("a", status="cancelled"), make_event)
    assert [each.number for each in await store.read_events("a", -1)] == [0, 1, 2, 3]
    assert not await store.append_events("a", [make_event(3)])
    assert not await store.end(make_stored("a"), make_event)


async def test_inputs_are_listed_as_far_as_they_are_kept(start: StartServer) -> None:
    server = await start()
    first = await ask(server, False, input="a")
    second = await ask(server, False, input="b", previous_response_id=first["id"])
    assert len((await list_items(server, second["id"]))["data"]) == 3
    await server.http.delete(f"/v1/responses/{first['id']}")
    (item,) = (await list_items(server, second["id"]))["data"]
    assert item["content"] == [{"type": "input_text", "text": "b"}]
    reply = await respond(server, previous_response_id=second["id"])
    assert first["id"] in reply.json()["error"]["message"]
