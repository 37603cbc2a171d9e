"""Every body and chunk holds against OpenAI's types, strictly, whatever a request asks for.

Fields of ours are taken out first: a client that knows OpenAI's alone must be content with the
rest.
"""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import Completion, CompletionChoice
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llmplug.types import FinishReason

from .conftest import StartServer
from .fake_engine import speak
from .sse_reader import read_events
from .strict_openai import check_openai
from .test_tools import DIALECT, TOOLS, write_call

OURS = {
    "choice": {"stop_reason", "token_ids"},
    "completion": {"prompt_logprobs", "prompt_token_ids", "stop_reason", "token_ids"},
    "message": {"reasoning", "reasoning_content"},
    "reply": {"prompt_logprobs", "prompt_token_ids", "timings"},
}
ALL_OF_OURS = {"return_token_ids": True, "prompt_logprobs": 1, "timings": True}
USAGE = {"stream_options": {"include_usage": True}}
REQUESTS: list[dict[str, Any]] = [
    {},
    {"n": 3},
    {"stop": "wor"},
    {"stop_token_ids": [3]},
    {"deadline_ms": 60_000, "overflow": "truncate"},
    ALL_OF_OURS,
    {**ALL_OF_OURS, "return_tokens_as_token_ids": True, "n": 2},
]
SCRIPTS = [
    speak("Hello", " wor", "ld", cached=2),
    speak("h", "é✓", finish=FinishReason.LENGTH),
    speak(""),
]


def without_ours(reply: dict[str, Any], choice_kind: str) -> dict[str, Any]:
    """A reply as a client that knows OpenAI's fields alone reads it."""
    choices = []
    for choice in reply["choices"]:
        plain = _drop(choice, OURS[choice_kind])
        for name in ("message", "delta"):
            if name in plain:
                plain[name] = _drop(plain[name], OURS["message"])
        choices.append(plain)
    return {**_drop(reply, OURS["reply"]), "choices": choices}


def _drop(fields: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


@pytest.mark.parametrize("fields", REQUESTS)
@pytest.mark.parametrize("script", SCRIPTS)
async def test_chats(start: StartServer, fields: dict[str, Any], script: Any) -> None:
    server = await start(script)
    for more in ({}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 2}):
        body = (await server.chat(**fields, **more)).json()
        check_openai(without_ours(body, "choice"), ChatCompletion)
        for options in ({}, USAGE):
            response = await server.chat(stream=True, **fields, **more, **options)
            for event in read_events(response):
                check_openai(without_ours(event, "choice"), ChatCompletionChunk)


@pytest.mark.parametrize("is_thinking", [False, True])
@pytest.mark.parametrize("finish", [FinishReason.STOP, FinishReason.LENGTH])
async def test_chats_with_thinking_and_calls(
    start: StartServer, is_thinking: bool, finish: FinishReason
) -> None:
    pieces = (
        ("<think>", "Well", ".</think>", "Four.")
        if is_thinking
        else ("Well.\n", write_call("time", city="Oslo"), write_call("time", city="Rome"))
    )
    server = await start(speak(*pieces, finish=finish), dialect=DIALECT)
    fields: dict[str, Any] = {} if is_thinking else {"tools": TOOLS}
    for more in (fields, {**fields, **ALL_OF_OURS, "logprobs": True}):
        body = (await server.chat(**more)).json()
        reply = check_openai(without_ours(body, "choice"), ChatCompletion)
        message = reply.choices[0].message
        assert bool(message.tool_calls) != is_thinking
        for event in read_events(await server.chat(stream=True, **more)):
            check_openai(without_ours(event, "choice"), ChatCompletionChunk)


class StreamedChoice(CompletionChoice):
    """OpenAI's type is of a whole reply; while a text goes on, it has no reason to end."""

    finish_reason: Any


class CompletionChunk(Completion):
    """A chunk of a completion, which OpenAI has no type for."""

    choices: list[StreamedChoice]  # type: ignore[assignment]


@pytest.mark.parametrize("fields", REQUESTS)
@pytest.mark.parametrize("script", SCRIPTS)
async def test_completions(start: StartServer, fields: dict[str, Any], script: Any) -> None:
    """With `echo` and `logprobs` a first token has null, as in OpenAI's replies, not its types."""
    server = await start(script)
    for more in ({}, {"logprobs": 2}, {"echo": True}, {"prompt": ["a", "bc"]}):
        asked = {"prompt": "Once", **fields, **more}
        body = (await server.complete(**asked)).json()
        check_openai(without_ours(body, "completion"), Completion)
        for options in ({}, USAGE):
            response = await server.complete(stream=True, **asked, **options)
            *texts, last = read_events(response)
            for event in (*texts, last):
                check_openai(without_ours(event, "completion"), CompletionChunk)
                for choice in event["choices"]:
                    assert choice["finish_reason"] in (None, "stop", "length")
