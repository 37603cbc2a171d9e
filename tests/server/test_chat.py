"""POST /v1/chat/completions: shapes checked with OpenAI's own types."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llmplug.errors import EngineError, EngineUnavailable, Overloaded
from llmplug.types import FinishReason, GenerateRequest, SequenceDelta

from .conftest import StartServer
from .fake_engine import TOKENIZER, Script, fail_after, ids_of, speak
from .sse_reader import joined_text, read_events


def check_chunk(event: dict[str, Any]) -> ChatCompletionChunk:
    return ChatCompletionChunk.model_validate(event, strict=True)


async def test_whole_reply_has_openai_shape(start: StartServer) -> None:
    server = await start(speak("Hello", " wor", "ld", cached=2))
    response = await server.chat()
    assert response.status_code == 200
    body = response.json()
    reply = ChatCompletion.model_validate(body, strict=True)
    (choice,) = reply.choices
    assert choice.message.content == "Hello world"
    assert choice.finish_reason == "stop"
    assert reply.model == "toy"
    assert reply.id.startswith("chatcmpl-")
    prompt = server.engine.requests[0].prompt_ids
    assert body["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": len("Hello world") + 1,  # the end token counts
        "total_tokens": len(prompt) + len("Hello world") + 1,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


async def test_chunks_come_in_openai_order(start: StartServer) -> None:
    server = await start()
    response = await server.chat(stream=True, stream_options={"include_usage": True})
    events = read_events(response)
    for event in events:
        check_chunk(event)
    assert events[0]["choices"] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": "", "refusal": None},
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    assert joined_text(events) == "Hello world"
    *contents, final, usage = events[1:]
    assert all(event["choices"][0]["finish_reason"] is None for event in contents)
    assert final["choices"] == [
        {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    ]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len("Hello world") + 1
    assert all(event["usage"] is None for event in events[:-1])
    assert len({(e["id"], e["created"], e["model"], e["object"]) for e in events}) == 1


async def test_no_usage_unless_asked(start: StartServer) -> None:
    server = await start()
    events = read_events(await server.chat(stream=True))
    assert all("usage" not in event for event in events)
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_several_choices(start: StartServer, is_streamed: bool) -> None:
    server = await start(speak("a", "b", "c", finish=FinishReason.LENGTH))
    response = await server.chat(n=3, stream=is_streamed)
    if is_streamed:
        events = read_events(response)
        texts = [joined_text(events, i) for i in range(3)]
        reasons = [
            choice["finish_reason"]
            for event in events
            for choice in event["choices"]
            if choice["finish_reason"]
        ]
    else:
        choices = response.json()["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2]
        texts = [choice["message"]["content"] for choice in choices]
        reasons = [choice["finish_reason"] for choice in choices]
    assert texts == ["abc"] * 3
    assert reasons == ["length"] * 3


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_stop_string_ends_the_text_and_the_engine_request(
    start: StartServer, is_streamed: bool
) -> None:
    server = await start(speak("one S", "TO", "P two", " three"))
    response = await server.chat(stop=["STOP"], stream=is_streamed)
    if is_streamed:
        events = read_events(response)
        text, reason = joined_text(events), events[-1]["choices"][0]["finish_reason"]
    else:
        choice = response.json()["choices"][0]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    assert (text, reason) == ("one ", "stop")
    assert server.engine.num_open == 0


async def test_stop_string_ends_one_choice_of_two(start: StartServer) -> None:
    server = await start(speak("x", "END", "y"))
    body = (await server.chat(stop="END", n=2)).json()
    assert [choice["message"]["content"] for choice in body["choices"]] == ["x", "x"]
    request_id = server.engine.requests[0].request_id
    # The first one is ended alone; with the second nothing is left, and the request is closed.
    assert server.engine.aborted == [(request_id, 0)]


async def test_stop_string_waits_for_min_tokens(start: StartServer) -> None:
    server = await start(speak("abXcdX", "ef"))
    body = (await server.chat(stop="X", min_tokens=4)).json()
    assert body["choices"][0]["message"]["content"] == "abXcd"


async def test_stop_string_may_stay_in_the_text(start: StartServer) -> None:
    server = await start(speak("abXcd"))
    body = (await server.chat(stop="X", include_stop_str_in_output=True)).json()
    assert body["choices"][0]["message"]["content"] == "abX"


async def test_logprobs_have_bytes_and_alternatives(start: StartServer) -> None:
    server = await start(speak("hé"))
    body = (await server.chat(logprobs=True, top_logprobs=2)).json()
    ChatCompletion.model_validate(body, strict=True)
    content = body["choices"][0]["logprobs"]["content"]
    # The end token is no part of the answer. A part of a character is written as bytes.
    assert [entry["token"] for entry in content] == ["h", "bytes:\\xc3", "bytes:\\xa9"]
    assert [entry["bytes"] for entry in content] == [[104], [0xC3], [0xA9]]
    assert all(math.isclose(entry["logprob"], math.log(0.5)) for entry in content)
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)


async def test_streamed_logprobs_equal_whole_ones(start: StartServer) -> None:
    server = await start(speak("a✓b", "cS", "TOP", "d"))
    options = {"logprobs": True, "top_logprobs": 1, "stop": "STOP"}
    whole = (await server.chat(**options)).json()["choices"][0]
    events = read_events(await server.chat(stream=True, **options))
    streamed = [
        entry
        for event in events
        for choice in event["choices"]
        if choice["logprobs"]
        for entry in choice["logprobs"]["content"]
    ]
    assert joined_text(events) == whole["message"]["content"] == "a✓bc"
    assert streamed == whole["logprobs"]["content"]
    assert bytes(b for entry in streamed for b in entry["bytes"]).decode() == "a✓bc"


async def test_logprobs_without_alternatives(start: StartServer) -> None:
    server = await start(speak("a"))
    content = (await server.chat(logprobs=True)).json()["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in content] == [[]]
    body = (await server.chat(top_logprobs=2)).json()
    assert body["error"]["param"] == "top_logprobs"


async def test_characters_are_never_cut(start: StartServer) -> None:
    """Whatever the split, every chunk is whole text and the sum is the whole."""
    text = 'é✓😀 "quoted" \\ \n\t \u2028 </script>'
    raw = text.encode()
    server = await start()
    for size in (1, 2, 3, 5):
        pieces = [raw[i : i + size] for i in range(0, len(raw), size)]
        server.engine.script = speak_bytes(pieces)
        events = read_events(await server.chat(stream=True))
        assert joined_text(events) == text
        assert not any("\ufffd" in str(event) for event in events)


BYTE_IDS = {TOKENIZER.token_bytes(i)[0]: i for i in range(256)}


def speak_bytes(pieces: list[bytes]) -> Script:
    async def script(request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        for number, piece in enumerate(pieces):
            yield SequenceDelta(
                request_id=request.request_id,
                token_ids=[BYTE_IDS[byte] for byte in piece],
                finish_reason=FinishReason.LENGTH if number == len(pieces) - 1 else None,
            )

    return script


async def test_fields_reach_the_engine(start: StartServer) -> None:
    server = await start(sampler_fields=("dry_multiplier",))
    response = await server.chat(
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.1,
        logit_bias={"65": -100},
        seed=7,
        max_completion_tokens=9,
        max_tokens=1,
        stop=["x"],
        stop_token_ids=[3],
        ignore_eos=True,
        min_tokens=2,
        skip_special_tokens=False,
        priority=-3,
        cache_salt="salt",
        dry_multiplier=0.8,
        user="me",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
    )
    assert response.status_code == 200
    assert "X-Llmplug-Ignored" not in response.headers
    request = server.engine.requests[0]
    sampling = request.sampling
    assert (request.priority, request.cache_salt) == (-3, "salt")
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 5)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.1, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -1)
    assert (sampling.logit_bias, sampling.seed) == ({65: -100}, 7)
    assert (sampling.max_tokens, sampling.min_tokens) == (9, 2)
    assert (sampling.stop, sampling.stop_token_ids) == (("x",), (3,))
    assert (sampling.ignore_eos, sampling.skip_special_tokens) == (True, False)
    assert sampling.extra == {"dry_multiplier": 0.8}


async def test_defaults_leave_the_choice_to_the_model(start: StartServer) -> None:
    server = await start()
    await server.chat()
    sampling = server.engine.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (None, None, None)
    assert server.renderer.calls == [
        {
            "messages": [{"role": "user", "content": "Hi"}],
            "add_generation_prompt": True,
            "continue_final_message": False,
            "tools": None,
            "documents": None,
            "template_kwargs": None,
        }
    ]


async def test_template_options_reach_the_renderer(start: StartServer) -> None:
    server = await start()
    await server.chat(continue_final_message=True, chat_template_kwargs={"x": 1})
    call = server.renderer.calls[0]
    assert call["continue_final_message"] is True
    assert call["add_generation_prompt"] is False
    assert call["template_kwargs"] == {"x": 1}


async def test_documents_reach_the_renderer(start: StartServer) -> None:
    server = await start()
    documents = [{"title": "a", "text": "b"}]
    assert (await server.chat(documents=documents)).status_code == 200
    assert server.renderer.calls[0]["documents"] == documents


async def test_a_template_of_a_request_is_used_where_it_is_trusted(start: StartServer) -> None:
    server = await start(trusts_templates=True)
    template = "{{ style ~ messages[0].content }}{{ raise_exception('no <b>') if style == 'bad' }}"
    fields = {"chat_template": template, "chat_template_kwargs": {"style": "So: "}}
    assert (await server.chat(**fields)).status_code == 200
    assert TOKENIZER.decode(server.engine.requests[0].prompt_ids) == "So: Hi"
    assert server.renderer.calls == []
    for wrong, words in (
        ({"chat_template": "a\n{% if %}"}, "line 2"),
        ({**fields, "chat_template_kwargs": {"style": "bad"}}, "no <b>"),
    ):
        response = await server.chat(**wrong)
        assert response.status_code == 400
        assert words in response.json()["error"]["message"]


async def test_messages_become_plain(start: StartServer) -> None:
    server = await start()
    response = await server.chat(
        messages=[
            {"role": "developer", "content": "Be kind."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                "odd": 1,
            },
            {"role": "assistant", "content": None, "refusal": "No."},
            {"role": "user", "content": "x" * 5000},  # long enough for a thread
        ]
    )
    assert response.status_code == 200
    assert response.headers["X-Llmplug-Ignored"] == "messages[1].odd"
    assert server.renderer.calls[0]["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "x" * 5000},
    ]


async def test_unknown_fields_are_listed(start: StartServer) -> None:
    server = await start()
    for is_streamed in (False, True):
        response = await server.chat(stream=is_streamed, temprature=1, **{"a\r\nb": 2})
        assert response.headers["X-Llmplug-Ignored"] == "temprature, a??b"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (EngineError("secret words"), 500, "engine_error"),
        (EngineUnavailable("The engine is restarting."), 503, "engine_unavailable"),
        (Overloaded("full", retry_after_s=3), 429, "server_overloaded"),
        (RuntimeError("secret words"), 500, "internal_error"),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_error_before_the_first_token_keeps_its_status(
    start: StartServer, error: Exception, status: int, code: str, is_streamed: bool
) -> None:
    server = await start(fail_after(error))
    response = await server.chat(stream=is_streamed)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert "secret" not in response.text


async def test_error_after_the_first_token_ends_the_stream_once(start: StartServer) -> None:
    server = await start(fail_after(EngineUnavailable("The engine died."), "Hel", "lo"))
    events = read_events(await server.chat(stream=True))
    *chunks, last = events
    assert joined_text(chunks) == "Hello"
    assert last == {
        "error": {
            "message": "The engine died.",
            "type": "server_error",
            "param": None,
            "code": "engine_unavailable",
        }
    }
    whole = await server.chat()
    assert whole.status_code == 503


async def test_end_without_a_finish_reason_is_an_error(start: StartServer) -> None:
    async def script(request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        yield SequenceDelta(request_id=request.request_id, token_ids=ids_of("a"))

    server = await start(script)
    assert read_events(await server.chat(stream=True))[-1]["error"]["code"] == "engine_error"
    assert (await server.chat()).status_code == 500


async def test_model_without_template(start: StartServer) -> None:
    server = await start(has_renderer=False)
    response = await server.chat()
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "model"
    assert (await server.complete()).status_code == 200
