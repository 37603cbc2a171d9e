"""POST /v1/completions: shapes checked with OpenAI's own types."""

from __future__ import annotations

import math
from typing import Any

import pytest
from openai.types import Completion

from llmplug.errors import EngineUnavailable
from llmplug.types import FinishReason, GenerateRequest

from .conftest import StartServer
from .fake_engine import TOKENIZER, fail_after, ids_of, speak
from .sse_reader import joined_text, read_events


async def test_whole_reply_has_openai_shape(start: StartServer) -> None:
    server = await start(speak("upon ", "a time", finish=FinishReason.LENGTH, cached=4))
    body = (await server.complete()).json()
    reply = Completion.model_validate(body, strict=True)
    assert reply.choices[0].text == "upon a time"
    assert reply.choices[0].finish_reason == "length"
    assert body["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 11,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert server.engine.requests[0].sampling.max_tokens == 16  # OpenAI's default


async def test_chunks_come_in_openai_order(start: StartServer) -> None:
    server = await start()
    events = read_events(await server.complete(stream=True, stream_options={"include_usage": True}))
    *contents, final, usage = events
    for event in (final, usage):
        Completion.model_validate(event, strict=True)
    assert joined_text(events) == "Hello world"
    assert all(event["choices"][0]["finish_reason"] is None for event in contents)
    assert final["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len("Hello world") + 1
    assert all(event["object"] == "text_completion" for event in events)


def repeat(request: GenerateRequest) -> Any:
    """Answer with the prompt in brackets."""
    text = TOKENIZER.decode(request.prompt_ids)
    return speak("[", text, "]", cached=1)(request)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("ab", ["ab"]),
        (["ab", "cd", "e"], ["ab", "cd", "e"]),
        (ids_of("ab"), ["ab"]),
        ([ids_of("ab"), ids_of("c")], ["ab", "c"]),
    ],
)
async def test_every_kind_of_prompt(
    start: StartServer, prompt: Any, texts: list[str], is_streamed: bool
) -> None:
    server = await start(repeat)
    options = {"stream_options": {"include_usage": True}} if is_streamed else {}
    response = await server.complete(prompt=prompt, n=2, stream=is_streamed, **options)
    expected = [f"[{text}]" for text in texts for _ in range(2)]
    if is_streamed:
        events = read_events(response)
        got = [joined_text(events, i) for i in range(len(expected))]
        usage = events[-1]["usage"]
    else:
        body = response.json()
        assert [choice["index"] for choice in body["choices"]] == list(range(len(expected)))
        got = [choice["text"] for choice in body["choices"]]
        usage = body["usage"]
    assert got == expected
    assert usage["prompt_tokens"] == sum(map(len, texts))
    assert usage["completion_tokens"] == sum(len(each) + 1 for each in expected)
    assert usage["prompt_tokens_details"]["cached_tokens"] == len(texts)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_echo_repeats_the_prompt(start: StartServer, is_streamed: bool) -> None:
    server = await start(speak("!"))
    response = await server.complete(prompt="héllo", echo=True, stream=is_streamed)
    text = (
        joined_text(read_events(response)) if is_streamed else response.json()["choices"][0]["text"]
    )
    assert text == "héllo!"
    assert server.engine.requests[0].sampling.prompt_logprobs is None


async def test_logprobs_say_where_tokens_stand(start: StartServer) -> None:
    server = await start(speak("a", "b"))
    body = (await server.complete(prompt="xyz", logprobs=1)).json()
    Completion.model_validate(body, strict=True)
    logprobs = body["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["a", "b"]
    assert logprobs["text_offset"] == [0, 1]
    assert [math.isclose(each, math.log(0.5)) for each in logprobs["token_logprobs"]] == [True] * 2
    assert [list(each) for each in logprobs["top_logprobs"]] == [["a"], ["b"]]


async def test_echoed_logprobs_begin_with_null(start: StartServer) -> None:
    server = await start(speak("a", "b"))
    for is_streamed in (False, True):
        response = await server.complete(prompt="xyz", logprobs=0, echo=True, stream=is_streamed)
        if is_streamed:
            parts = [
                choice["logprobs"]
                for event in read_events(response)
                for choice in event["choices"]
                if choice["logprobs"]
            ]
            logprobs = {key: [x for part in parts for x in part[key]] for key in parts[0]}
        else:
            choice = response.json()["choices"][0]
            assert choice["text"] == "xyzab"
            logprobs = choice["logprobs"]
        assert logprobs["tokens"] == ["x", "y", "z", "a", "b"]
        assert logprobs["text_offset"] == [0, 1, 2, 3, 4]
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        assert all(value < 0 for value in logprobs["token_logprobs"][1:])


async def test_scoring_generates_nothing(start: StartServer) -> None:
    """echo, logprobs and max_tokens 0: how evaluation harnesses ask for likelihoods."""
    server = await start(speak("a", "b"))
    prompts = [ids_of("xyz"), ids_of("uv")]
    body = (await server.complete(prompt=prompts, logprobs=1, echo=True, max_tokens=0)).json()
    assert [choice["text"] for choice in body["choices"]] == ["xyz", "uv"]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["length"] * 2
    assert [len(choice["logprobs"]["tokens"]) for choice in body["choices"]] == [3, 2]
    assert body["usage"]["completion_tokens"] == 0


async def test_one_failing_prompt_ends_the_whole_request(start: StartServer) -> None:
    def script(request: GenerateRequest) -> Any:
        if request.prompt_ids == ids_of("bad"):
            return fail_after(EngineUnavailable("Gone."), "x")(request)
        return speak("good")(request)

    server = await start(script)
    response = await server.complete(prompt=["good", "bad"])
    assert response.status_code == 503
    events = read_events(await server.complete(prompt=["good", "bad"], stream=True))
    assert events[-1]["error"]["code"] == "engine_unavailable"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": 5}, "prompt", "invalid_type"),
        ({"prompt": ["a", 1]}, "prompt[1]", "invalid_type"),
        ({"prompt": [1, "a"]}, "prompt[1]", "invalid_type"),
        ({"prompt": [[1], []]}, "prompt[1]", "invalid_value"),
        ({"prompt": [[1], [True]]}, "prompt[1][0]", "invalid_type"),
        ({"prompt": [-1]}, "prompt[0]", "invalid_value"),
        ({"prompt": [2**63]}, "prompt[0]", "invalid_value"),
        ({"prompt": ["a"] * 100_000}, "prompt", "invalid_value"),
        ({"prompt": ["a"] * 100, "n": 20}, "n", "invalid_value"),
        ({"n": 3, "best_of": 2}, "best_of", "invalid_value"),
        ({"best_of": 2**63}, "best_of", "invalid_value"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"logprobs": 21}, "logprobs", "invalid_value"),
        ({"echo": "yes"}, "echo", "invalid_type"),
    ],
)
async def test_refusals(start: StartServer, fields: Any, param: str, code: str) -> None:
    server = await start()
    for is_streamed in (False, True):
        response = await server.complete(stream=is_streamed, **fields)
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["param"], error["code"]) == (param, code)
    assert server.engine.requests == []
