"""Thinking over HTTP: where it is sent, what it counts, how it is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmplug.chat.channels import Dialect
from llmplug.dialect import ReasoningSyntax, in_template
from llmplug.errors import InvalidRequest, UnsupportedParameter
from llmplug.server.thinking import choose_template_options
from llmplug.specs import ReasoningParserSpec
from llmplug.types import FinishReason, ThinkingBudget

from .conftest import StartServer
from .fake_engine import EOS, TOKENIZER, speak
from .sse_reader import joined_text, read_events
from .test_tools import DIALECT, REASONING_SPEC, TOOLS, ask, cut, write_call

THOUGHT = "<think>\nHm, ✓.\n</think>\n\nYes."


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_thinking_is_sent_under_both_names(
    start: StartServer, is_streamed: bool, size: int
) -> None:
    server = await start(speak(*cut(THOUGHT, size)), dialect=DIALECT)
    message = (await ask(server, is_streamed))["message"]
    assert message == {
        "role": "assistant",
        "content": "Yes.",
        "refusal": None,
        "reasoning_content": "Hm, ✓.",
        "reasoning": "Hm, ✓.",
    }


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_thinking_is_left_out_if_asked_and_counted_all_the_same(
    start: StartServer, is_streamed: bool
) -> None:
    server = await start(speak(*THOUGHT), dialect=DIALECT)
    message = (await ask(server, is_streamed, include_reasoning=False))["message"]
    assert message == {"role": "assistant", "content": "Yes.", "refusal": None}
    usage = (await server.chat(include_reasoning=False)).json()["usage"]
    # A token a byte: the start marker, white space behind it, the thinking itself.
    assert usage["completion_tokens_details"] == {
        "reasoning_tokens": len("<think>\nHm, ✓.".encode())
    }


async def test_one_name_may_be_dropped_in_the_config(start: StartServer) -> None:
    for name in ("reasoning_content", "reasoning"):
        server = await start(speak(*THOUGHT), dialect=DIALECT, reasoning_fields=(name,))
        message = (await ask(server, False))["message"]
        assert message.keys() - {"role", "content", "refusal"} == {name}


async def test_without_a_parser_it_is_text(start: StartServer) -> None:
    server = await start(speak(*cut(THOUGHT, 5)))
    message = (await ask(server, False))["message"]
    assert message == {"role": "assistant", "content": THOUGHT, "refusal": None}


async def test_answer_may_begin_within_thinking(start: StartServer) -> None:
    """The prompt opened the block; the renderer says so."""
    server = await start(speak("Hm.</think>Yes."), dialect=DIALECT)
    server.renderer.prompt_end = "<|assistant|><think>\n"
    message = (await ask(server, False))["message"]
    assert (message["reasoning"], message["content"]) == ("Hm.", "Yes.")


@pytest.mark.parametrize(
    ("text", "answer", "reasoning", "content"),
    [
        ("The answer", " is <b>.", None, " is <b>."),
        ("<think>So", " on</think>Yes", " on", "Yes"),
        ("<think>So</think>", "Yes", None, "Yes"),
    ],
)
@pytest.mark.parametrize("is_implied", [False, True])
async def test_answer_that_goes_on(
    start: StartServer,
    text: str,
    answer: str,
    reasoning: str | None,
    content: str,
    is_implied: bool,
) -> None:
    assert REASONING_SPEC.syntax is not None
    syntax = replace(REASONING_SPEC.syntax, is_implied=is_implied)
    spec = replace(REASONING_SPEC, syntax=syntax)
    server = await start(speak(answer), dialect=Dialect(spec))
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]
    message = (await ask(server, False, messages=messages, continue_final_message=True))["message"]
    assert (message.get("reasoning"), message["content"]) == (reasoning, content)


async def test_usage_sums_over_choices_and_streams(start: StartServer) -> None:
    server = await start(speak(*cut(THOUGHT, 3)), dialect=DIALECT)
    events = read_events(
        await server.chat(stream=True, stream_options={"include_usage": True}, n=2)
    )
    assert [joined_text(events, i) for i in (0, 1)] == ["Yes.", "Yes."]
    details = events[-1]["usage"]["completion_tokens_details"]
    assert details == {"reasoning_tokens": 2 * len("<think>\nHm, ✓.".encode())}


async def test_unfinished_thinking_is_no_content(start: StartServer) -> None:
    server = await start(speak("<think>Hm", finish=FinishReason.LENGTH), dialect=DIALECT)
    choice = await ask(server, False)
    assert choice["message"]["content"] == ""
    assert choice["message"]["reasoning"] == "Hm"
    assert choice["finish_reason"] == "length"


# --- log-probabilities --------------------------------------------------------------------------
ALIGNED = [
    ("<think>ab</think>\n\nYes ✓ ab.", "Yes ✓ ab."),
    ("No thinking at all. ", "No thinking at all. "),
    ("<think>Hm.</think>\n<<a <t", "<<a <t"),
    ("a " + write_call("time", city="a b") + "\na b" + write_call("time"), "aa b"),
    ("<think>x</think>x</think>x", "x</think>x"),
    (write_call("time"), ""),
    ("<think>endless", ""),
    ('<tool_call>{"name": "time", "arguments": {]}</tool_call>', None),
]


@pytest.mark.parametrize(("text", "content"), ALIGNED)
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_logprobs_are_those_of_the_content(
    start: StartServer, text: str, content: str | None, is_streamed: bool
) -> None:
    server = await start(dialect=DIALECT)
    for size in (1, 3, 1000):
        server.engine.script = speak(*cut(text, size))
        asked = {"tools": TOOLS, "logprobs": True, "top_logprobs": 1, "stream": is_streamed}
        response = await server.chat(**asked)
        if is_streamed:
            choices = [c for event in read_events(response) for c in event["choices"]]
            shown = "".join(c["delta"].get("content") or "" for c in choices)
            for choice in choices:
                if not choice["delta"].get("content"):
                    assert choice["logprobs"] is None
        else:
            choices = response.json()["choices"]
            shown = choices[0]["message"]["content"] or ""
        entries = [e for c in choices if c["logprobs"] for e in c["logprobs"]["content"]]
        assert content is None or shown == content
        assert bytes(b for entry in entries for b in entry["bytes"]).decode() == shown


# --- asking for it ------------------------------------------------------------------------------
SWITCHED = replace(REASONING_SPEC, thinking_on={"thinking": True}, thinking_off={"thinking": False})
GRADED = replace(REASONING_SPEC, effort_variable="reasoning_effort")
BOTH = replace(SWITCHED, effort_variable="level")
ASKED: list[tuple[ReasoningParserSpec | None, set[str], str | None, dict[str, Any], Any]] = [
    # spec, what the template reads, reasoning_effort, chat_template_kwargs -> template variables
    (None, set(), None, {}, {}),
    (None, set(), "none", {}, {}),
    (None, set(), "high", {}, UnsupportedParameter),
    (None, set(), None, {"enable_thinking": False}, {}),
    (None, set(), None, {"enable_thinking": True}, UnsupportedParameter),
    (None, {"enable_thinking"}, None, {"enable_thinking": True}, {"enable_thinking": True}),
    (SWITCHED, {"thinking"}, None, {"enable_thinking": True}, {"thinking": True}),
    (SWITCHED, {"thinking"}, None, {"enable_thinking": False}, {"thinking": False}),
    (SWITCHED, {"thinking"}, None, {"enable_thinking": "yes"}, InvalidRequest),
    (SWITCHED, {"thinking"}, "none", {}, {"thinking": False}),
    (SWITCHED, {"thinking"}, "low", {}, {"thinking": True}),
    (SWITCHED, {"thinking"}, "low", {"thinking": True}, {"thinking": True}),
    (SWITCHED, {"thinking"}, "low", {"thinking": False}, InvalidRequest),
    (SWITCHED, {"thinking"}, "low", {"enable_thinking": False}, InvalidRequest),
    (SWITCHED, set(), "none", {}, UnsupportedParameter),
    (SWITCHED, set(), "medium", {}, {}),
    (SWITCHED, set(), None, {"enable_thinking": True}, {}),
    (SWITCHED, set(), None, {"enable_thinking": False}, UnsupportedParameter),
    (GRADED, {"reasoning_effort"}, "high", {}, {"reasoning_effort": "high"}),
    (GRADED, {"reasoning_effort"}, "none", {}, UnsupportedParameter),
    (BOTH, {"thinking", "level"}, "high", {"x": 1}, {"thinking": True, "level": "high", "x": 1}),
    (BOTH, {"thinking", "level"}, "none", {}, {"thinking": False}),
    (BOTH, {"thinking", "level"}, "much", {}, InvalidRequest),
]


@pytest.mark.parametrize(("spec", "variables", "effort", "options", "wanted"), ASKED)
def test_wishes_become_variables_of_the_template(
    spec: ReasoningParserSpec | None,
    variables: set[str],
    effort: str | None,
    options: dict[str, Any],
    wanted: Any,
) -> None:
    if isinstance(wanted, dict):
        assert choose_template_options(effort, options, spec, variables) == wanted
        return
    with pytest.raises(wanted) as caught:
        choose_template_options(effort, options, spec, variables)
    assert caught.type is wanted
    assert caught.value.param in {"reasoning_effort", "chat_template_kwargs.enable_thinking"}


async def test_effort_reaches_the_template(start: StartServer) -> None:
    server = await start(dialect=Dialect(SWITCHED))
    server.renderer.variables = frozenset({"thinking"})
    assert (await server.chat(reasoning_effort="none")).status_code == 200
    assert server.renderer.calls[0]["template_kwargs"] == {"thinking": False}
    error = (await server.chat(reasoning_effort=5)).json()["error"]
    assert (error["param"], error["code"]) == ("reasoning_effort", "invalid_type")


# --- the budget ---------------------------------------------------------------------------------
# The tokenizer of these tests has one control token and a token a byte.
MARKED = ReasoningParserSpec(
    name="toy",
    detect=in_template("x"),
    syntax=ReasoningSyntax(start=("(",), end=EOS, ended_by=("[", "several")),
)

LONG_START = replace(MARKED, syntax=ReasoningSyntax(start=("((",), end=EOS))


async def test_budget_of_an_open_block_needs_no_start(start: StartServer) -> None:
    server = await start(dialect=Dialect(LONG_START))
    server.renderer.prompt_end = "> (("
    assert (await server.chat(thinking_token_budget=7)).status_code == 200
    budget = server.engine.requests[-1].thinking
    assert budget is not None
    assert budget.is_open


async def test_budget_reaches_the_engine(start: StartServer) -> None:
    server = await start(dialect=Dialect(MARKED))
    opening, closing = TOKENIZER.encode("([", add_special_tokens=False)
    for prompt_end, is_open in (("", False), ("> (", True), (f"({EOS}", False)):
        server.renderer.prompt_end = prompt_end
        assert (await server.chat(thinking_token_budget=7)).status_code == 200
        assert server.engine.requests[-1].thinking == ThinkingBudget(
            max_tokens=7,
            start_ids=(opening,),
            end_ids=(TOKENIZER.eos_token_id or 0, closing),
            is_open=is_open,
        )
    assert (await server.chat()).status_code == 200
    assert server.engine.requests[-1].thinking is None


@pytest.mark.parametrize(
    ("dialect", "budget", "code"),
    [
        (None, 5, "unsupported_parameter"),
        (DIALECT, 5, "unsupported_parameter"),  # `</think>` is eight tokens here
        (Dialect(LONG_START), 5, "unsupported_parameter"),
        (Dialect(MARKED), -1, "invalid_value"),
        (Dialect(MARKED), "5", "invalid_type"),
    ],
)
async def test_budget_that_cannot_be_kept_is_refused(
    start: StartServer, dialect: Dialect | None, budget: Any, code: str
) -> None:
    server = await start(dialect=dialect)
    error = (await server.chat(thinking_token_budget=budget)).json()["error"]
    assert (error["param"], error["code"]) == ("thinking_token_budget", code)


async def test_budget_of_nothing_suits_a_model_that_does_not_think(start: StartServer) -> None:
    server = await start()
    assert (await server.chat(thinking_token_budget=0)).status_code == 200
