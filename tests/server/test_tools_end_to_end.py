"""Forced calls and formats by a real model, through the clients that people use.

SmolLM2 knows no tools: what it writes is senseless, and fits its schema all the same.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.served import Process

from .test_end_to_end import serving_small

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals")]


class Weather(BaseModel):
    """Says what the weather is like."""

    model_config = ConfigDict(extra="forbid")

    city: str = Field(max_length=20)
    unit: Literal["celsius", "fahrenheit"]
    days: int = Field(ge=1, le=7)


class Send(BaseModel):
    """Sends a message."""

    model_config = ConfigDict(extra="forbid")

    to: list[Literal["ann", "bob"]] = Field(min_length=1, max_length=2)
    urgent: bool


class Stop(BaseModel):
    """Stops the clock."""

    model_config = ConfigDict(extra="forbid")

    reason: Literal["late", "tired", "done"]


ARGUMENTS: dict[str, type[BaseModel]] = {"weather": Weather, "send": Send, "stop": Stop}


def make_tool(name: str, **more: Any) -> Any:
    kind = ARGUMENTS[name]
    function = {"name": name, "description": kind.__doc__, "parameters": kind.model_json_schema()}
    return {"type": "function", "function": {**function, **more}}


TOOLS = [make_tool(name) for name in ARGUMENTS]
NAMED: Any = {"type": "function", "function": {"name": "weather"}}
MESSAGES: Any = [{"role": "user", "content": "What will the weather be in Rome tomorrow?"}]

both_ways = pytest.mark.parametrize("is_streamed", [False, True])
cold_and_warm = pytest.mark.parametrize("temperature", [0, 1])


@pytest.fixture(scope="module")
def process(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving_small(smollm2_gguf, tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest.fixture(scope="module")
def client(process: Process) -> Iterator[openai.OpenAI]:
    with process.client() as client:
        yield client


def ask(client: openai.OpenAI, is_streamed: bool, **options: Any) -> Any:
    """The choice of a reply."""
    options = {"model": "small", "messages": MESSAGES, "max_completion_tokens": 300, **options}
    if not is_streamed:
        return client.chat.completions.create(**options).choices[0]
    with client.chat.completions.stream(**options) as stream:
        return stream.get_final_completion().choices[0]


def check_calls(choice: Any) -> list[str]:
    """Read every call as its function would; return their names."""
    assert choice.finish_reason != "length"
    for call in choice.message.tool_calls:
        ARGUMENTS[call.function.name].model_validate_json(call.function.arguments, strict=True)
    return [call.function.name for call in choice.message.tool_calls]


@both_ways
@cold_and_warm
def test_named_call(client: openai.OpenAI, is_streamed: bool, temperature: float) -> None:
    choice = ask(client, is_streamed, tools=TOOLS, tool_choice=NAMED, temperature=temperature)
    assert check_calls(choice) == ["weather"]
    assert choice.finish_reason == "stop"


@both_ways
@cold_and_warm
@pytest.mark.parametrize("seed", range(3))
def test_one_required_call_of_three_tools(
    client: openai.OpenAI, is_streamed: bool, temperature: float, seed: int
) -> None:
    choice = ask(
        client,
        is_streamed,
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=temperature,
        seed=seed,
    )
    assert len(check_calls(choice)) == 1
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content


@both_ways
def test_required_calls_may_be_several(client: openai.OpenAI, is_streamed: bool) -> None:
    choice = ask(client, is_streamed, tools=TOOLS[2:], tool_choice="required", temperature=0)
    calls = choice.message.tool_calls
    assert {call.function.name for call in calls} == {"stop"}
    whole = calls if choice.finish_reason == "tool_calls" else calls[:-1]
    assert len(whole) >= 1
    for call in whole:
        Stop.model_validate_json(call.function.arguments)


@cold_and_warm
def test_streamed_equals_whole(client: openai.OpenAI, temperature: float) -> None:
    options = {"tools": TOOLS, "tool_choice": "required", "temperature": temperature, "seed": 5}
    found = [
        [
            (call.function.name, call.function.arguments)
            for call in ask(client, is_streamed, **options).message.tool_calls
        ]
        for is_streamed in (False, True)
    ]
    assert found[0] == found[1]


def test_calls_go_back_with_their_results(client: openai.OpenAI) -> None:
    choice = ask(client, False, tools=TOOLS, tool_choice=NAMED)
    call = choice.message.tool_calls[0]
    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}
    history = [*MESSAGES, choice.message.model_dump(exclude_none=True), result]
    answer = ask(client, False, messages=history, tools=TOOLS, tool_choice="none")
    assert answer.message.content


@cold_and_warm
def test_parse_into_a_model(client: openai.OpenAI, temperature: float) -> None:
    reply = client.chat.completions.parse(
        model="small",
        messages=MESSAGES,
        response_format=Weather,
        temperature=temperature,
        max_completion_tokens=300,
    )
    assert isinstance(reply.choices[0].message.parsed, Weather)
    assert reply.choices[0].finish_reason == "stop"


def test_parse_calls_of_strict_tools(client: openai.OpenAI) -> None:
    reply = client.chat.completions.parse(
        model="small",
        messages=MESSAGES,
        tools=[openai.pydantic_function_tool(Stop)],
        tool_choice={"type": "function", "function": {"name": "Stop"}},
        max_completion_tokens=300,
    )
    calls = reply.choices[0].message.tool_calls
    assert calls is not None
    assert isinstance(calls[0].function.parsed_arguments, Stop)


def test_langchain_binds_tools(process: Process) -> None:
    langchain_openai = pytest.importorskip("langchain_openai")
    model = langchain_openai.ChatOpenAI(
        model="small",
        base_url=f"{process.url}/v1",
        api_key="none",
        temperature=0,
        max_tokens=300,
        max_retries=0,
    )
    for choice, names in (("any", {"Weather", "Stop"}), ("Stop", {"Stop"})):
        bound = model.bind_tools([Weather, Stop], tool_choice=choice, parallel_tool_calls=False)
        whole = bound.invoke("What will the weather be in Rome?")
        streamed = None
        for chunk in bound.stream("What will the weather be in Rome?"):
            streamed = chunk if streamed is None else streamed + chunk
        for message in (whole, streamed):
            (call,) = message.tool_calls
            assert call["name"] in names
            {"Weather": Weather, "Stop": Stop}[call["name"]].model_validate(call["args"])
    typed = model.with_structured_output(Weather).invoke("What will the weather be in Rome?")
    assert isinstance(typed, Weather)


def test_pydantic_ai_makes_a_model(process: Process) -> None:
    pydantic_ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async def ask(output: object) -> object:
        url = f"{process.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            model = OpenAIChatModel("small", provider=OpenAIProvider(openai_client=client))
            agent = pydantic_ai.Agent(
                model, output_type=output, model_settings={"max_tokens": 300, "temperature": 0}
            )
            return (await agent.run("What will the weather be in Rome?")).output

    for output in (pydantic_ai.ToolOutput(Weather), pydantic_ai.NativeOutput(Weather)):
        assert isinstance(asyncio.run(ask(output)), Weather)


def test_instructor_makes_a_model(process: Process) -> None:
    instructor = pytest.importorskip("instructor")
    with process.client() as client:
        for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
            made = instructor.from_openai(client, mode=mode).chat.completions.create(
                model="small",
                messages=MESSAGES,
                response_model=Weather,
                max_tokens=300,
                max_retries=0,
            )
            assert isinstance(made, Weather)
