"""What must hold for any dialect: answers are read back, cuts do not matter, no text is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from llmplug.chat.call_grammar import build_call_grammar
from llmplug.chat.calls import start_markers
from llmplug.dialect import CallSyntax, JsonCalls, NamedCalls
from llmplug.testing.answer_texts import (
    call_lists,
    call_markers,
    garbage_texts,
    plain_texts,
    thinking_markers,
)
from llmplug.testing.answers import TOOLS, read, read_all_ways
from llmplug.testing.call_writing import Call, write_calls
from llmplug.testing.expect import expect
from llmplug.testing.grammar_texts import NotSampled, texts_of

if TYPE_CHECKING:
    from llmplug.specs import ReasoningParserSpec, ToolParserSpec

WriteCalls = Callable[[Sequence[Call]], str]


def check_dialect(
    tools: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None = None,
    *,
    write: WriteCalls | None = None,
    num_examples: int = 60,
) -> None:
    """Check everything that must hold for a dialect.

    Args:
        tools: how calls are written, if they are.
        reasoning: how thinking is written, if it is.
        write: writes calls as the family does, where they are read by hand; None: by each table.
        num_examples: of each property.
    """
    check_reading(tools, reasoning, write=write, num_examples=num_examples)
    check_garbage(tools, reasoning, num_examples=num_examples)
    check_without_tools(tools, reasoning, write=write)
    if tools is not None and (tools.syntax or tools.grammar):
        check_forced_calls(tools, reasoning, num_examples=num_examples // 2)


# --- answers ------------------------------------------------------------------------------------
def check_reading(
    tools: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None,
    *,
    write: WriteCalls | None = None,
    num_examples: int = 60,
) -> None:
    """Answers written in the dialect are read as what they say, however they are cut."""
    for table, writer in _list_writers(tools, write):
        _check_calls(tools, reasoning, table, writer, num_examples)
    is_whole = tools is not None and tools.is_whole
    if reasoning is not None and reasoning.syntax is not None and not is_whole:
        _check_thinking(tools, reasoning, num_examples)


def _list_writers(
    tools: ToolParserSpec | None, write: WriteCalls | None
) -> list[tuple[CallSyntax | None, WriteCalls]]:
    if write is not None:
        return [(None, write)]
    tables = () if tools is None else tools.syntax
    return [(table, partial(write_calls, table)) for table in tables]


def _check_calls(
    tools: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None,
    table: CallSyntax | None,
    write: WriteCalls,
    num_examples: int,
) -> None:
    markers = [*call_markers(tools), *thinking_markers(reasoning)]
    is_exact = isinstance(table, JsonCalls | NamedCalls)
    is_bare = table is not None and not start_markers(table)

    @_many(num_examples)
    @given(
        calls=call_lists(markers, has_escapes=is_exact),
        content=st.just("") if is_bare else plain_texts(markers) | st.just(""),
        gap=st.sampled_from(["", "\n", " \n\n"]),
        places=st.lists(st.integers(0, 2000), max_size=12),
    )
    def check(calls: list[Call], content: str, gap: str, places: list[int]) -> None:
        head, prompt_end, _ = _write_thinking("", reasoning)
        text = head + content + gap + write(calls)
        answer = read_all_ways(text, places, tools, reasoning, prompt_end)
        _expect_equal("content", answer.content, content, text)
        names = [call.name for call in answer.calls]
        _expect_equal("names of calls", names, [call.name for call in calls], text)
        _expect_equal(
            "ends of calls", [c.is_complete for c in answer.calls], [True] * len(calls), text
        )
        for found, written in zip(answer.calls, calls, strict=True):
            _expect_equal("arguments", json.loads(found.arguments), written.arguments, text)
            if is_exact:
                _expect_equal("arguments' text", found.arguments, written.json, text)
        for place in places[:2]:  # it may break off anywhere: `read` sees to what it ends with
            broken = text[: place % (len(text) + 1)]
            read_all_ways(broken, places, tools, reasoning, prompt_end)

    check()


def _check_thinking(
    tools: ToolParserSpec | None, reasoning: ReasoningParserSpec, num_examples: int
) -> None:
    ended_by = () if reasoning.syntax is None else reasoning.syntax.ended_by
    markers = [*call_markers(tools), *thinking_markers(reasoning), *ended_by]

    @_many(num_examples)
    @given(
        thought=plain_texts(markers),
        content=plain_texts(markers),
        is_open=st.booleans(),
        places=st.lists(st.integers(0, 200), max_size=8),
    )
    def check(thought: str, content: str, is_open: bool, places: list[int]) -> None:
        head, prompt_end, end = _write_thinking(thought, reasoning, is_open=is_open)
        text = f"{head}{end}\n\n{content}"
        answer = read_all_ways(text, places, tools, reasoning, prompt_end)
        _expect_equal("thinking", answer.reasoning, thought, text)
        _expect_equal("content", answer.content, content, text)
        _expect_equal("calls", answer.calls, [], text)
        broken = read_all_ways(head, places, tools, reasoning, prompt_end)
        _expect_equal("thinking that breaks off", broken.reasoning, thought, head)
        _expect_equal("content behind that", broken.content, "", head)

    check()


def _write_thinking(
    thought: str, reasoning: ReasoningParserSpec | None, *, is_open: bool = False
) -> tuple[str, str, str]:
    """Return a block of thinking: its beginning, the prompt's end before it, its end marker.

    With nothing to think the block is closed by the prompt.
    """
    syntax = reasoning.syntax if reasoning is not None else None
    if syntax is None:
        return "", "", ""
    if not thought:
        return "", f"{''.join(syntax.start[:1])}{syntax.end}", ""
    if not syntax.start:
        return thought, "", syntax.end
    if is_open:
        return thought, syntax.start[0], syntax.end
    return f"{syntax.start[0]}\n{thought}", "", syntax.end


# --- garbage ------------------------------------------------------------------------------------
def check_garbage(
    tools: ToolParserSpec | None, reasoning: ReasoningParserSpec | None, *, num_examples: int = 60
) -> None:
    """Whatever a model writes: nothing raises, cuts do not matter, text is not lost."""
    thinking = thinking_markers(reasoning)
    is_made_by_hand = any(each is not None and each.make for each in (tools, reasoning))

    @_many(num_examples * 3)
    @given(
        text=garbage_texts([*call_markers(tools), *thinking]),
        places=st.lists(st.integers(0, 200), max_size=8),
        is_open=st.booleans(),
    )
    def check(text: str, places: list[int], is_open: bool) -> None:
        prompt_end = thinking[0] if thinking and is_open else ""
        answer = read_all_ways(text, places, tools, reasoning, prompt_end)
        kept = [part for kind, part in answer.parts if kind in {"Content", "Reasoning"}]
        if is_made_by_hand:
            return  # what a parser made by hand keeps to itself is for its own tests
        if not answer.calls:
            expect(
                _bare("".join(kept), thinking)
                in (
                    _bare(text, thinking),
                    _bare(_without_broken_marker(text, thinking), thinking),
                ),
                f"of {text!r} came {kept}: what is no call is content, and all of it comes out "
                "but white space and the markers of thinking",
            )
        else:
            expect(
                _is_within(_bare("".join(kept), []), _bare(text, [])),
                f"of {text!r} came {kept}: nothing is made up",
            )

    check()


def check_without_tools(
    tools: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None,
    *,
    write: WriteCalls | None = None,
) -> None:
    """Without tools in the request nothing is read as a call."""
    for _, writer in _list_writers(tools, write):
        text = writer([Call("f", {"text": "x"})])
        answer = read([text], tools, reasoning, callable_tools=())
        advice = f"of {text!r}, without tools in the request, came {answer.parts}: "
        expect(not answer.calls, advice + "a request without tools gets no calls")
        if tools is not None and not tools.is_whole:
            expect("x" in answer.content + answer.reasoning, advice + "the text is content then")


# --- forced calls -------------------------------------------------------------------------------
def check_forced_calls(
    tools: ToolParserSpec, reasoning: ReasoningParserSpec | None = None, *, num_examples: int = 30
) -> None:
    """Texts that the grammar of forced calls allows are read as whole calls."""
    for least, most in ((1, 1), (1, None), (2, 3)):
        node = build_call_grammar(tools, TOOLS, least=least, most=most)
        try:
            texts = texts_of(node)
        except NotSampled:
            return
        _check_forced(tools, reasoning, texts, (least, most), num_examples)


def _check_forced(
    tools: ToolParserSpec,
    reasoning: ReasoningParserSpec | None,
    texts: st.SearchStrategy[str],
    wanted: tuple[int, int | None],
    num_examples: int,
) -> None:
    _, prompt_end, _ = _write_thinking("", reasoning)
    least, most = wanted
    names = {tool.name for tool in TOOLS}

    @_many(num_examples)
    @given(text=texts, places=st.lists(st.integers(0, 500), max_size=6))
    def check(text: str, places: list[int]) -> None:
        answer = read_all_ways(text, places, tools, reasoning, prompt_end)
        num_calls = len(answer.calls)
        advice = f"the grammar of forced calls allows {text!r}, of which came {answer.parts}: "
        expect(
            least <= num_calls and (most is None or num_calls <= most),
            f"{advice}{num_calls} calls where {least} to {most or 'any number'} are forced",
        )
        expect(not answer.content, advice + "content beside the calls")
        for call in answer.calls:
            expect(call.is_complete, advice + "a call that does not end")
            expect(call.name in names, advice + f"a call of {call.name}, which is no tool")
            expect(_fits(json.loads(call.arguments)), advice + "arguments against the schema")

    check()


def _fits(arguments: dict[str, Any]) -> bool:
    types = {"text": str, "count": int, "is_on": bool, "items": list, "more": dict}
    return "text" in arguments and all(
        key not in types or isinstance(value, types[key]) for key, value in arguments.items()
    )


# --- comparing ----------------------------------------------------------------------------------
def _many(num_examples: int) -> settings:
    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    return settings(
        max_examples=num_examples,
        deadline=None,
        database=None,
        suppress_health_check=slow,
        phases=[Phase.generate, Phase.shrink],  # to explain takes long, and tells of our own lines
    )


def _expect_equal(what: str, found: object, written: object, text: str) -> None:
    expect(found == written, f"of {text!r} the {what} read: {found!r}, written: {written!r}")


def _bare(text: str, markers: Sequence[str]) -> str:
    """Return a text without white space and markers, and those that the pieces then make."""
    text = "".join(text.split())
    tight = sorted(("".join(marker.split()) for marker in markers), key=len, reverse=True)
    num_found = len(tight)
    while num_found:
        text, num_found = re.subn("|".join(map(re.escape, tight)), "", text)
    return text


def _without_broken_marker(text: str, markers: Sequence[str]) -> str:
    """Return a text without the marker that had only begun where it ends."""
    begun = [m[:length] for m in markers for length in range(len(m)) if text.endswith(m[:length])]
    return text.removesuffix(max(begun, key=len, default=""))


def _is_within(part: str, text: str) -> bool:
    """Return whether the characters of one text come in the other, in the same order."""
    rest = iter(text)
    return all(character in rest for character in part)
