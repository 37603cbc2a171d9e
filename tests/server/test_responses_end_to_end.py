"""The Responses API over the whole server: a real model, the official client, real restarts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.served import Process

from .test_end_to_end import serving_small

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals")]

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def process(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving_small(smollm2_gguf, tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest.fixture(scope="module")
def client(process: Process) -> Iterator[openai.OpenAI]:
    with process.client() as client:
        yield client


def create(client: openai.OpenAI, **fields: Any) -> Any:
    return client.responses.create(**{"model": "small", "temperature": 0, **fields})


def test_it_says_what_a_chat_says(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="small",
        temperature=0,
        max_completion_tokens=20,
        messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": QUESTION}],
    )
    made = create(client, input=QUESTION, instructions="Be kind.", max_output_tokens=20)
    assert made.output_text == chat.choices[0].message.content
    assert chat.usage is not None
    assert made.usage.input_tokens == chat.usage.prompt_tokens
    assert made.status == ("completed" if chat.choices[0].finish_reason == "stop" else "incomplete")


def test_stream_equals_whole(client: openai.OpenAI) -> None:
    whole = create(client, input=QUESTION, max_output_tokens=20)
    with client.responses.stream(
        model="small", temperature=0, input=QUESTION, max_output_tokens=20
    ) as stream:
        text = "".join(each.delta for each in stream if each.type == "response.output_text.delta")
    assert text == whole.output_text


def test_conversation_goes_on(client: openai.OpenAI) -> None:
    first = create(client, input=QUESTION, max_output_tokens=40)
    second = create(
        client, input="Say it again.", previous_response_id=first.id, max_output_tokens=20
    )
    said = {"role": "assistant", "content": first.output_text}
    by_hand: list[Any] = [
        {"role": "user", "content": QUESTION},
        said,
        {"role": "user", "content": "Say it again."},
    ]
    assert create(client, input=by_hand, max_output_tokens=20).output_text == second.output_text


def test_background(client: openai.OpenAI) -> None:
    whole = create(client, input=QUESTION, max_output_tokens=20)
    made = create(client, input=QUESTION, max_output_tokens=20, background=True)
    events = list(client.responses.retrieve(made.id, stream=True))
    assert events[-1].type in {"response.completed", "response.incomplete"}
    assert client.responses.retrieve(made.id).output_text == whole.output_text


def test_restart(smollm2_gguf: Path, tmp_path: Path) -> None:
    """A response of one server is there in the next; one that it could not finish has failed."""
    with serving_small(smollm2_gguf, tmp_path) as process, process.client() as client:
        done = create(client, input=QUESTION, max_output_tokens=20)
        cut = create(
            client, input="Tell a story.", background=True, extra_body={"ignore_eos": True}
        )
        with client.responses.retrieve(cut.id, stream=True) as stream:
            next(each for each in stream if each.type == "response.output_text.delta")
        process.popen.terminate()
        process.popen.send_signal(signal.SIGINT)  # the second does not wait for what runs
    with serving_small(smollm2_gguf, tmp_path) as process, process.client() as client:
        assert client.responses.retrieve(done.id) == done
        failed = client.responses.retrieve(cut.id)
        assert failed.status == "failed"
        assert failed.error is not None
        assert failed.output_text


def test_kill(smollm2_gguf: Path, tmp_path: Path) -> None:
    """A server that is killed has no last words: the next one finds out, and nobody waits on."""
    with serving_small(smollm2_gguf, tmp_path) as process, process.client() as client:
        cut = create(
            client, input="Tell a story.", background=True, extra_body={"ignore_eos": True}
        )
        with client.responses.retrieve(cut.id, stream=True) as stream:
            next(each for each in stream if each.type == "response.output_text.delta")
        process.popen.kill()
        process.popen.wait()
    with serving_small(smollm2_gguf, tmp_path) as process, process.client() as client:
        events = list(client.responses.retrieve(cut.id, stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[-1].type == "response.failed"
        assert client.responses.retrieve(cut.id).status == "failed"
