"""POST /v1/responses/compact: a long conversation made short, and gone on with."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types.responses import ResponseCompactionItem, ResponseUsage

from llmplug.server.responses.compaction import ASK_FOR_SUMMARY, open_summary, seal_summary

from .conftest import Running, StartServer
from .fake_engine import CONTEXT_LENGTH, speak
from .strict_openai import check_openai
from .test_responses import TOOLS, respond
from .test_responses_requests import shown_messages, user
from .test_tools import DIALECT, write_call


async def compact(server: Running, **fields: Any) -> Any:
    body = {"model": "toy", **fields}
    return await server.http.post("/v1/responses/compact", json=body)


async def test_a_conversation_goes_on_from_its_summary(start: StartServer) -> None:
    server = await start(speak("It is ", "sunny."))
    first = (await respond(server, input="How is it?", instructions="Be brief.")).json()
    server.engine.script = speak(" They spoke", " of the sun. ")
    asked = {"previous_response_id": first["id"], "input": [user("And in Rome?")]}
    reply = (await compact(server, instructions="Be kind.", **asked)).json()
    assert shown_messages(server) == [
        {"role": "system", "content": "Be kind."},
        user("How is it?"),
        {"role": "assistant", "content": "It is sunny."},
        user("And in Rome?"),
        user(ASK_FOR_SUMMARY),
    ]
    assert reply["object"] == "response.compaction"
    *users, summary = reply["output"]
    assert [part["text"] for each in users for part in each["content"]] == [
        "How is it?",
        "And in Rome?",
    ]
    check_openai(summary, ResponseCompactionItem)
    check_openai(reply["usage"], ResponseUsage)
    assert open_summary(summary["encrypted_content"]) == "They spoke of the sun."
    server.engine.script = speak("Yes.")
    await respond(server, input=[*reply["output"], user("Sure?")])
    *kept, shown, last = shown_messages(server)
    assert kept == [user("How is it?"), user("And in Rome?")]
    assert shown["role"] == "assistant"
    assert shown["content"].endswith("They spoke of the sun.")
    assert last == user("Sure?")


async def test_what_the_engine_is_asked(start: StartServer) -> None:
    server = await start()
    await compact(server, input="Hi", priority=3)
    (request,) = server.engine.requests
    assert request.sampling.temperature == 0
    assert request.sampling.max_tokens == CONTEXT_LENGTH // 8
    assert request.priority == 3


async def test_calls_are_summed_up_and_thinking_is_not_told(start: StartServer) -> None:
    server = await start(speak("Well.\n", write_call("time", city="Oslo")), dialect=DIALECT)
    called = (await respond(server, tools=TOOLS)).json()
    (call_id,) = [each["call_id"] for each in called["output"] if "call_id" in each]
    result = {"type": "function_call_output", "call_id": call_id, "output": "noon"}
    server.engine.script = speak("<think>", "Hm", ".</think>", "It is noon.")
    asked = {"previous_response_id": called["id"], "input": [result]}
    reply = (await compact(server, **asked)).json()
    assert [each["role"] for each in shown_messages(server)] == [
        *("user", "assistant", "tool", "user")
    ]
    *users, summary = reply["output"]
    assert [each["role"] for each in users] == ["user"]
    assert open_summary(summary["encrypted_content"]) == "It is noon."


async def test_a_summary_is_kept_and_listed(start: StartServer) -> None:
    server = await start()
    sealed = {"type": "compaction", "encrypted_content": seal_summary("Sun.")}
    made = (await respond(server, input=[sealed, user("x")])).json()
    page = (await server.http.get(f"/v1/responses/{made['id']}/input_items?order=asc")).json()
    listed, message = page["data"]
    check_openai(listed, ResponseCompactionItem)
    assert listed["encrypted_content"] == sealed["encrypted_content"]
    assert message["content"][0]["text"] == "x"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": "a", "previous_response_id": "resp_x"}, "previous_response_id"),
        ({"input": "a", "service_tier": "flex"}, "service_tier"),
        ({"input": "a" * (CONTEXT_LENGTH + 1)}, "input"),
    ],
)
async def test_refusals(start: StartServer, fields: dict[str, Any], param: str) -> None:
    server = await start()
    response = await compact(server, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert server.engine.requests == []


@pytest.mark.parametrize("sealed", ["", "x", "eA==", "ü", 3])
async def test_a_foreign_summary_is_refused(start: StartServer, sealed: Any) -> None:
    server = await start()
    item = {"type": "compaction", "encrypted_content": sealed}
    response = await respond(server, input=[item, user("x")])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input[0].encrypted_content"


async def test_no_summary_is_an_error(start: StartServer) -> None:
    """Nobody shall go on from nothing."""
    server = await start(speak("  "))
    response = await compact(server, input="Hi")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "no_summary"


async def test_the_official_client(start: StartServer) -> None:
    server = await start(speak("Sun."))
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        short = await client.responses.compact(model="toy", input="How is it?")
        assert short.output[-1].type == "compaction"
        # Its types know messages of the assistant alone there, and its documentation the user's.
        again: Any = [each.model_dump(exclude_none=True, warnings=False) for each in short.output]
        reply = await client.responses.create(model="toy", input=[*again, user("Sure?")])
    assert reply.output_text == "Sun."
