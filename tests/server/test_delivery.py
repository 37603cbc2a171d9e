"""What a request asks to be told beside its text: the same streamed and whole."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llmplug.types import FinishReason

from .conftest import Running, StartServer
from .fake_engine import TOKENIZER, ids_of, speak
from .sse_reader import joined_text, read_events

ENDPOINTS = ("chat", "complete")


async def ask(server: Running, endpoint: str, **fields: Any) -> Any:
    """The body, or the events of a stream."""
    response = await getattr(server, endpoint)(**fields)
    assert response.status_code == 200, response.text
    return read_events(response) if fields.get("stream") else response.json()


def choices_of(events: list[Any], index: int = 0) -> list[Any]:
    return [each for event in events for each in event["choices"] if each["index"] == index]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_token_ids_are_all_that_were_generated(start: StartServer, endpoint: str) -> None:
    server = await start(speak("hé", "l", "lo"))
    body = await ask(server, endpoint, return_token_ids=True, n=2)
    expected = [*ids_of("héllo"), TOKENIZER.eos_token_id]
    assert [choice["token_ids"] for choice in body["choices"]] == [expected] * 2
    events = await ask(server, endpoint, return_token_ids=True, n=2, stream=True)
    for index in range(2):
        chunks = choices_of(events, index)
        assert [i for chunk in chunks for i in chunk.get("token_ids", ())] == expected
    prompt = server.engine.requests[0].prompt_ids
    whole = body if endpoint == "chat" else body["choices"][0]
    assert whole["prompt_token_ids"] == prompt
    holders = events if endpoint == "chat" else choices_of(events)
    found = [each["prompt_token_ids"] for each in holders if "prompt_token_ids" in each]
    assert found == [prompt]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_token_ids_end_where_a_stop_string_begins_to_count(
    start: StartServer, endpoint: str
) -> None:
    server = await start(speak("abSTOPcd"))
    body = await ask(server, endpoint, return_token_ids=True, stop="STOP")
    (choice,) = body["choices"]
    assert choice["token_ids"] == ids_of("abSTOP")
    assert len(choice["token_ids"]) == body["usage"]["completion_tokens"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_prompt_logprobs_come_once_and_before_the_text(
    start: StartServer, endpoint: str
) -> None:
    server = await start(speak("Hello"))
    body = await ask(server, endpoint, prompt_logprobs=2)
    whole = body if endpoint == "chat" else body["choices"][0]
    first, second, *_ = whole["prompt_logprobs"]
    ids = server.engine.requests[0].prompt_ids
    assert len(whole["prompt_logprobs"]) == len(ids)
    assert first is None
    assert list(second) == [str(ids[1]), str(ids[1] + 1)]  # as the engine of these tests says
    name = TOKENIZER.token_text(ids[1])
    assert second[str(ids[1])] == {"logprob": math.log(0.5), "rank": 1, "decoded_token": name}
    assert second[str(ids[1] + 1)]["rank"] == 2
    assert "prompt_token_ids" not in whole
    events = await ask(server, endpoint, prompt_logprobs=2, stream=True)
    holders = events if endpoint == "chat" else choices_of(events)
    (place,) = [i for i, each in enumerate(holders) if "prompt_logprobs" in each]
    assert holders[place]["prompt_logprobs"] == whole["prompt_logprobs"]
    assert place == (1 if endpoint == "chat" else 0)  # a chat says first who speaks
    assert joined_text(events[: place + 1]) == ""


async def test_echoed_logprobs_and_prompt_logprobs_have_their_own_numbers(
    start: StartServer,
) -> None:
    server = await start(speak("b"))
    for logprobs, prompt_logprobs in ((0, 3), (3, 0)):
        body = await ask(
            server,
            "complete",
            prompt="xyz",
            echo=True,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )
        (choice,) = body["choices"]
        assert len(choice["logprobs"]["top_logprobs"][1]) == max(1, logprobs)
        assert len(choice["prompt_logprobs"][1]) == max(1, prompt_logprobs)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_tokens_may_be_written_as_ids(start: StartServer, endpoint: str) -> None:
    server = await start(speak("hé"))
    fields: dict[str, Any] = (
        {"logprobs": True, "top_logprobs": 2} if endpoint == "chat" else {"logprobs": 2}
    )
    body = await ask(server, endpoint, return_tokens_as_token_ids=True, **fields)
    logprobs = body["choices"][0]["logprobs"]
    names = (
        [each["token"] for each in logprobs["content"]]
        if endpoint == "chat"
        else logprobs["tokens"]
    )
    assert names == [f"token_id:{i}" for i in ids_of("hé")]
    assert f"token_id:{ids_of('h')[0] + 1}" in str(logprobs)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"stop": ["x", "lo"]}, "lo"),
        ({"stop_token_ids": [ids_of("l")[0]]}, ids_of("l")[0]),
        ({"stop": ["absent"]}, None),
        ({}, None),
    ],
)
async def test_stop_reason_is_what_the_request_named(
    start: StartServer, endpoint: str, fields: dict[str, Any], reason: str | int | None
) -> None:
    token = fields.get("stop_token_ids", [None])[0]
    server = await start(speak("Hel", "lo") if token is None else stop_at(token))
    (choice,) = (await ask(server, endpoint, **fields))["choices"]
    last = choices_of(await ask(server, endpoint, stream=True, **fields))[-1]
    for each in (choice, last):
        assert each["finish_reason"] == "stop"
        assert each.get("stop_reason") == reason
        assert ("stop_reason" in each) == (reason is not None)


def stop_at(token_id: int) -> Any:
    """Say "He", then a token that the request named."""

    async def script(request: Any) -> Any:
        async for delta in speak("He", "l", finish=FinishReason.LENGTH)(request):
            if delta.token_ids == [token_id]:
                yield type(delta)(
                    request_id=delta.request_id,
                    token_ids=delta.token_ids,
                    stop_token_id=token_id,
                    finish_reason=FinishReason.STOP,
                )
            else:
                yield delta

    return script


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_usage_grows_in_every_chunk_where_it_is_asked_for(
    start: StartServer, endpoint: str
) -> None:
    server = await start(speak("ab", "c", "d"))
    events = await ask(
        server,
        endpoint,
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (2, 5)
    assert len({event["usage"]["prompt_tokens"] for event in events}) == 1
    assert [bool(event["choices"]) for event in events] == [True] * (len(events) - 1) + [False]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_echo_in_a_chat_repeats_the_message_gone_on_with(
    start: StartServer, is_streamed: bool
) -> None:
    server = await start(speak("dog.", " It"))
    messages = [
        {"role": "user", "content": "Tell."},
        {"role": "assistant", "content": [{"type": "text", "text": "The "}]},
    ]
    fields = {"messages": messages, "continue_final_message": True, "stream": is_streamed}
    for echo, text in ((True, "The dog. It"), (False, "dog. It")):
        reply = await ask(server, "chat", echo=echo, **fields)
        got = joined_text(reply) if is_streamed else reply["choices"][0]["message"]["content"]
        assert got == text
    refused = await server.chat(echo=True)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "echo"


TIMINGS = {
    "queue_ms",
    "template_ms",
    "grammar_ms",
    "prefill_ms",
    "decode_ms",
    "total_ms",
    "tokens_per_second",
    "cached_tokens",
}


def read_header(value: str) -> dict[str, float]:
    pairs = (each.split(";dur=") for each in value.split(", "))
    return {name: float(ms) for name, ms in pairs}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_receipt_adds_up(start: StartServer, endpoint: str, is_streamed: bool) -> None:
    server = await start(speak("ab", "c", "d", cached=3))
    response = await getattr(server, endpoint)(timings=True, stream=is_streamed)
    body = read_events(response)[-1] if is_streamed else response.json()
    timings = body["timings"]
    assert timings.keys() == TIMINGS
    assert timings["cached_tokens"] == 3
    parts = ("template_ms", "grammar_ms", "queue_ms", "prefill_ms", "decode_ms")
    assert all(timings[name] >= 0 for name in parts)
    assert 0 < sum(timings[name] for name in parts) <= timings["total_ms"]
    # Three tokens came after the first delta, the end token among them.
    rate = 3 / timings["decode_ms"] * 1000
    assert math.isclose(timings["tokens_per_second"], rate, rel_tol=0.05)
    header = read_header(response.headers["Server-Timing"])
    assert header["template"] == timings["template_ms"]
    assert ("decode" in header) != is_streamed or header["decode"] <= timings["decode_ms"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_receipt_is_given_to_who_asks(start: StartServer, endpoint: str) -> None:
    server = await start()
    for header, is_given in (("true", True), ("1", True), ("false", False), ("", False)):
        server.http.headers["X-Llmplug-Timings"] = header
        response = await getattr(server, endpoint)()
        assert ("timings" in response.json()) == is_given
        assert ("Server-Timing" in response.headers) == is_given


async def test_a_request_keeps_its_id(start: StartServer) -> None:
    server = await start()
    for sent, is_kept in (("abc-1:2", True), ("x" * 129, False), ('a"b', False), ("é", False)):
        server.http.headers["X-Request-Id"] = sent
        for response in (await server.chat(), await server.chat(stream=True)):
            assert (response.headers["X-Request-Id"] == sent) == is_kept
            assert len(response.headers["X-Request-Id"]) <= 128
