"""Read answers as a server does, in pieces, and see that what comes out can be followed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmplug.chat.channels import make_parser
from llmplug.dialect import (
    AnswerContext,
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Event,
    Reasoning,
    Tool,
)
from llmplug.testing.expect import expect

if TYPE_CHECKING:
    from llmplug.specs import ReasoningParserSpec, ToolParserSpec

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "is_on": {"type": "boolean"},
        "items": {"type": "array", "items": {"type": "string"}},
        "more": {"type": "object", "properties": {"deep": {"type": "string"}}},
    },
    "required": ["text"],
}
TOOLS = (Tool("get_time", PARAMETERS), Tool("find", PARAMETERS), Tool("f", PARAMETERS))


@dataclass
class ReadCall:
    """A call as it was read."""

    name: str
    arguments: str = ""
    id: str | None = None
    is_complete: bool = False


@dataclass
class Answer:
    """What a parser made of an answer; `parts` keeps the order, neighbours of a kind in one."""

    content: str = ""
    reasoning: str = ""
    calls: list[ReadCall] = field(default_factory=list)
    parts: list[tuple[str, str]] = field(default_factory=list)


def join(events: Iterable[Event]) -> Answer:
    """Put events together, and see that they come in an order that clients can follow."""
    answer = Answer()
    is_open = False
    for event in events:
        match event:
            case Content(text):
                answer.content += text
            case Reasoning(text):
                answer.reasoning += text
            case CallStart(index, name, call_id):
                expect(not is_open, f"{event} comes within a call: end one before the next")
                expect(index == len(answer.calls), f"{event}: calls are numbered from 0")
                expect(bool(name), f"{event}: a call begins once its name is known")
                answer.calls.append(ReadCall(name, id=call_id))
                is_open = True
            case CallArguments(index, text):
                _expect_current(event, is_open and index == len(answer.calls) - 1)
                answer.calls[-1].arguments += text
            case CallEnd(index, is_complete):
                _expect_current(event, is_open and index == len(answer.calls) - 1)
                answer.calls[-1].is_complete = is_complete
                is_open = False
        _add_part(answer, event)
    expect(not is_open, "a call never ends: `finish` ends the one that is open")
    for call in answer.calls:
        if call.is_complete:
            _expect_object(call)
    return answer


def _expect_current(event: Event, is_current: bool) -> None:
    expect(is_current, f"{event} is not of the call that is open")


def _expect_object(call: ReadCall) -> None:
    """Whole arguments are the text of a JSON object."""
    try:
        is_object = isinstance(json.loads(call.arguments), dict)
    except ValueError:
        is_object = False
    expect(
        is_object,
        f"the call of {call.name} ends complete, and its arguments are no JSON object: "
        f"{call.arguments!r}. Where they break off or are malformed, CallEnd(is_complete=False)",
    )


def _add_part(answer: Answer, event: Event) -> None:
    kind = type(event).__name__
    text = getattr(event, "text", "")
    if kind in {"Content", "Reasoning"} and not text:
        return
    if answer.parts and answer.parts[-1][0] == kind and text:
        answer.parts[-1] = (kind, answer.parts[-1][1] + text)
    else:
        answer.parts.append((kind, text or repr(event)))


def read(
    pieces: Sequence[str],
    tools: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None = None,
    *,
    prompt_end: str = "",
    callable_tools: tuple[Tool, ...] = TOOLS,
) -> Answer:
    """Read an answer that comes in pieces."""
    context = AnswerContext(tools=callable_tools, prompt_end=prompt_end)
    parser = make_parser(reasoning, tools, context)
    return join([event for piece in pieces for event in parser.feed(piece)] + parser.finish())


def read_all_ways(
    text: str,
    places: Sequence[int],
    tools: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None,
    prompt_end: str = "",
) -> Answer:
    """Read a text whole, in single characters, and cut at some places: it is all the same."""
    whole = read([text], tools, reasoning, prompt_end=prompt_end)
    for pieces in (list(text), cut(text, places)):
        other = read(pieces, tools, reasoning, prompt_end=prompt_end)
        expect(
            other.parts == whole.parts,
            f"a stream is read in another way than the whole text.\nin pieces {pieces}:\n"
            f"    {other.parts}\nwhole:\n    {whole.parts}\nHold back what may be the beginning "
            "of a marker until it is certain, and lose nothing of it",
        )
    return whole


def cut(text: str, places: Sequence[int]) -> list[str]:
    """Cut a text at some places."""
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in itertools.pairwise(edges)]
