"""Forms of answers over HTTP, by a real model: they hold, and bad ones harm nobody."""

from __future__ import annotations

import itertools
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.served import DEADLINE_S, Process

from .test_end_to_end import serving_small

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals")]

MESSAGES: Any = [{"role": "user", "content": "Name a city, and how many people live there."}]
# What the server promises is under two seconds; the rest is for a machine that runs the suite.
BOUND_S = 6.0
CITY = {
    "type": "object",
    "properties": {
        "people": {"type": "integer", "minimum": 1000, "maximum": 99_999_999},
        "city": {"type": "string", "pattern": "^[A-Z][a-z]{2,12}$"},
        "kind": {"enum": ["town", "city"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2},
    },
    "required": ["people", "city", "kind", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def process(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving_small(smollm2_gguf, tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest.fixture(scope="module")
def client(process: Process) -> Iterator[openai.OpenAI]:
    with process.client() as client:
        yield client


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    """The choices of a chat, streamed or not, as (text, finish reason)."""
    asked = {"model": "small", "messages": MESSAGES, "max_tokens": 200, **fields}
    if not asked.get("stream"):
        reply = client.chat.completions.create(**asked)
        return [(choice.message.content, choice.finish_reason) for choice in reply.choices]
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for chunk in client.chat.completions.create(**asked):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    return [(texts[index], reasons[index]) for index in sorted(texts)]


def check_city(text: str) -> None:
    value = json.loads(text)
    assert list(value) == CITY["required"], "the order of the schema"
    assert 1000 <= value["people"] <= 99_999_999
    assert re.fullmatch("[A-Z][a-z]{2,12}", value["city"])
    assert value["kind"] in {"town", "city"}
    assert len(value["tags"]) <= 2
    assert all(len(tag) <= 5 for tag in value["tags"])


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_answers_fit_their_schema(
    client: openai.OpenAI, temperature: float, is_streamed: bool
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    answers = ask(
        client,
        response_format=form,
        temperature=temperature,
        stream=is_streamed,
        n=2,
        seed=3,
        frequency_penalty=0.5,
        logprobs=True,
        top_logprobs=2,
        logit_bias={"5": 3},
    )
    assert len(answers) == 2
    for text, reason in answers:
        assert reason == "stop"
        check_city(text)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"regex": r"\d{3}-[ab]{2}"}, r"\d{3}-[ab]{2}"),
        ({"choice": ["Paris", "New York", "Łódź"]}, "Paris|New York|Łódź"),
        ({"grammar": 'start: "<" WORD ("," WORD){2} ">"\nWORD: /[a-z]{1,4}/'}, "<[a-z,]{5,14}>"),
        ({"json": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700}}, r"\d{1,3}"),
    ],
)
def test_other_forms(client: openai.OpenAI, form: dict[str, Any], pattern: str) -> None:
    for temperature in (0, 1):
        for is_streamed in (False, True):
            ((text, reason),) = ask(
                client,
                temperature=temperature,
                stream=is_streamed,
                extra_body={"structured_outputs": form},
            )
            assert reason == "stop"
            assert re.fullmatch(pattern, text), text
            reply = client.completions.create(
                model="small",
                prompt="Once",
                temperature=temperature,
                extra_body={"structured_outputs": form},
            )
            assert re.fullmatch(pattern, reply.choices[0].text), reply.choices[0].text
            if "json" in form:
                assert int(text) % 7 == 0


def test_json_mode_is_an_object_or_ends_by_length(client: openai.OpenAI) -> None:
    ((text, reason),) = ask(client, response_format={"type": "json_object"}, temperature=0)
    assert text.startswith("{")
    assert reason in {"stop", "length"}
    if reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_a_stop_string_still_ends_an_answer(client: openai.OpenAI) -> None:
    ((text, reason),) = ask(
        client, stop=["-"], extra_body={"structured_outputs": {"regex": r"\d{3}-[ab]{2}"}}
    )
    assert re.fullmatch(r"\d{3}", text)
    assert reason == "stop"


BOMBS: dict[str, Any] = {
    "recursive $ref": {"json": {"$ref": "#"}},
    "mutual $ref": {
        "json": {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        }
    },
    "10^4 properties": {"json": {"properties": {f"p{i}": {} for i in range(10_000)}}},
    "5000 properties": {"json": {"properties": {f"p{i}": {} for i in range(5_000)}}},
    "nested quantifiers": {"regex": "(((a+)+)+b?){9,99999}(?=c)"},
    "counts of counts": {"regex": "((([a-z]{1,1000}c?){1,1000}d?){1,1000}e?){1,1000}"},
    "10^6 repeats": {"regex": "([a-z]+ ?[0-9]{1,9}){1000000}"},
    "malformed": {"json": {"type": "object", "properties": 5}},
}


def try_form(client: openai.OpenAI, form: Any) -> str:
    """What becomes of a form: `refused` by a 400 that names it, `busy` by a 429, or `harmless`."""
    reply = client.with_options(max_retries=0).chat.completions.with_raw_response
    try:
        reply.create(
            model="small",
            messages=MESSAGES,
            max_tokens=4,
            extra_body={"structured_outputs": form},
        )
    except openai.BadRequestError as error:
        named = (error.param, error.code) == ("structured_outputs", "invalid_grammar")
        return "refused" if named else f"400 for {error.param}"
    except openai.RateLimitError:
        return "busy"  # so much else runs here that it got no processor for 1.5 s
    return "harmless"


def test_bad_forms_harm_nobody(process: Process, client: openai.OpenAI) -> None:
    arrivals: list[float] = []
    is_over = threading.Event()

    def read_a_stream() -> None:
        with process.client() as neighbour:
            stream = neighbour.completions.create(
                model="small",
                prompt="Once",
                max_tokens=900,
                stream=True,
                temperature=0,
                extra_body={"ignore_eos": True},
            )
            for _ in stream:
                arrivals.append(time.monotonic())
                if is_over.is_set():
                    break
        is_over.set()

    reader = threading.Thread(target=read_a_stream)
    reader.start()
    seconds = {}
    try:
        process.until(lambda: len(arrivals) > 3)
        for name, form in BOMBS.items():
            started = time.monotonic()
            before = len(arrivals)
            verdict = try_form(client, form)
            seconds[name] = (verdict, time.monotonic() - started)
            if not is_over.is_set():
                process.until(lambda before=before: len(arrivals) > before or is_over.is_set())
    finally:
        is_over.set()
        reader.join(DEADLINE_S)
    assert max(each for _, each in seconds.values()) < BOUND_S, seconds
    assert {verdict for verdict, _ in seconds.values()} <= {"refused", "busy", "harmless"}
    for name in ("recursive $ref", "mutual $ref", "10^4 properties", "nested quantifiers"):
        assert seconds[name][0] == "refused"
    gaps = [later - one for one, later in itertools.pairwise(arrivals)]
    assert max(gaps) < BOUND_S
    ((text, _),) = ask(client, extra_body={"structured_outputs": {"choice": ["yes"]}})
    assert text == "yes"
