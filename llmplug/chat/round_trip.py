"""Write a call and a thought with a model's own template, and read them back with its dialect."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from llmplug.chat.channels import make_parser
from llmplug.chat.marker_tokens import find_marker_ids, find_markers
from llmplug.chat.render import count_shared
from llmplug.dialect import AnswerContext, CallArguments, CallStart, Content, Reasoning, Tool
from llmplug.errors import LlmplugError, TemplateError

if TYPE_CHECKING:
    from llmplug.chat.render import ChatRenderer
    from llmplug.dialect import Event
    from llmplug.specs import ReasoningParserSpec, ToolParserSpec

_USER = {"role": "user", "content": "What is the weather like?"}
_THOUGHT = "They ask for the weather; I look it up."
_ANSWER = "It is sunny."
_ARGUMENTS: Mapping[str, Any] = {
    "city": 'Zürich "Altstadt" <b>',
    "days": 3,
    "is_metric": True,
    "tags": ["a, b", "c"],
    "place": {"lat": 47.5, "name": "x: y"},
}
_PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "name of a city"},
        "days": {"type": "integer", "description": "how many"},
        "is_metric": {"type": "boolean", "description": "units"},
        "tags": {"type": "array", "items": {"type": "string"}, "description": "any"},
        "place": {"type": "object", "description": "where"},
    },
    "required": ["city"],
}
_NAME = "get_weather"
_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Looks the weather up.",
        "parameters": dict(_PARAMETERS),
    },
}
_TWO: Mapping[str, Any] = {"city": "Reykjavík"}


class NotShown(LlmplugError):
    """A template does not show what is to be read back."""


def find_call_problem(
    renderer: ChatRenderer, reasoning: ReasoningParserSpec | None, spec: ToolParserSpec
) -> str | None:
    """Return why a call that the template wrote does not come back the same; None: it does.

    Raises:
        NotShown: the template does not show calls.
    """
    renderer = renderer.for_tools
    if not renderer.shape.takes_tool_calls:
        raise NotShown("the template has no place for calls")
    problem = _try_calls(renderer, reasoning, spec, [_ARGUMENTS])
    if problem is not None:
        return problem
    try:
        return _try_calls(renderer, reasoning, spec, [_ARGUMENTS, _TWO])
    except TemplateError:  # one call at a time
        return None


def _try_calls(
    renderer: ChatRenderer,
    reasoning: ReasoningParserSpec | None,
    spec: ToolParserSpec,
    wanted: Sequence[Mapping[str, Any]],
) -> str | None:
    calls = [_make_call(spec, i, arguments) for i, arguments in enumerate(wanted)]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    tools = [_TOOL] if renderer.shape.takes_tools else None
    text, head = _write_answer(renderer, message, tools, spec, reasoning)
    if len(wanted) > 1 and text.count(_NAME) < len(wanted):
        return None  # it shows one call alone
    context = AnswerContext((Tool(_NAME, _PARAMETERS),), head)
    events = _read(reasoning, spec, context, text)
    starts = [event for event in events if isinstance(event, CallStart)]
    names = [event.name for event in starts]
    if names != [_NAME] * len(wanted):
        return f"the template wrote a call of {_NAME}; read were {names or 'no calls'}, in {text!r}"
    for start, arguments in zip(starts, wanted, strict=True):
        of_call = [e for e in events if isinstance(e, CallArguments) and e.index == start.index]
        written = _join(of_call, CallArguments)
        try:
            found = json.loads(written)
        except ValueError:
            return f"arguments came back as {written!r}"
        if found != arguments:
            return f"arguments came back as {written}, not as {json.dumps(arguments)}"
    left = _join(events, Content).strip()
    return f"text was left beside the call: {left!r}" if left else None


def _make_call(
    spec: ToolParserSpec | None, index: int, arguments: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return a call as messages hold it, with an id that its dialect's templates take."""
    call_id = f"call{index:05}"  # nine letters and digits: some templates insist
    if spec is not None and spec.make_id is not None:
        call_id = spec.make_id(_NAME, index)
    text = json.dumps(arguments, ensure_ascii=False)
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": _NAME, "arguments": text},
    }


def find_thinking_problem(renderer: ChatRenderer, spec: ReasoningParserSpec) -> str | None:
    """Return why a thought that the template wrote does not come back the same; None: it does.

    Raises:
        NotShown: the template does not show thoughts of messages.
    """
    answer: Mapping[str, Any] = {
        "role": "assistant",
        "content": _ANSWER,
        "reasoning_content": _THOUGHT,
    }
    text, head = _write_answer(renderer, answer, None, None, spec)
    is_answer = _THOUGHT in text
    if not is_answer and renderer.shape.takes_tool_calls:  # perhaps beside calls only
        answer = {**answer, "content": "", "tool_calls": [_make_call(None, 0, _ARGUMENTS)]}
        text, head = _write_answer(renderer, answer, None, None, spec)
    if _THOUGHT not in text:
        raise NotShown("the template does not show thoughts of messages")
    events = _read(spec, None, AnswerContext((), head), text)
    found, content = _join(events, Reasoning).strip(), _join(events, Content).strip()
    if found != _THOUGHT:
        return f"in {text!r} was read the thought {found!r}"
    if is_answer and content != _ANSWER:
        return f"in {text!r} was read the answer {content!r}"
    return None


def _write_answer(
    renderer: ChatRenderer,
    message: Mapping[str, Any],
    tools: list[Mapping[str, Any]] | None,
    spec: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None,
) -> tuple[str, str]:
    """Return what the template writes for a message, without head and tail, and the head."""
    whole = renderer.render_text([_USER, message], add_generation_prompt=False, tools=tools)
    bare = renderer.render_text([_USER], add_generation_prompt=False, tools=tools)
    headed = renderer.render_text([_USER], add_generation_prompt=True, tools=tools)
    start = count_shared(whole, bare)
    head = whole[start:][: count_shared(whole[start:], headed[start:])]
    specs = [each for each in (reasoning, spec) if each is not None]
    if head != headed[start:]:  # what it shares with this answer may end within a marker
        head = head[: len(head) - _num_begun(head, chain.from_iterable(map(find_markers, specs)))]
    text = _take_hidden_away(renderer, whole[start + len(head) :], specs)
    end = reasoning.syntax.end.strip() if reasoning is not None and reasoning.syntax else ""
    if end and text.lstrip().startswith(end):  # no model closes what nothing has opened
        return text.lstrip().removeprefix(end), head + end
    return text, head


def _num_begun(head: str, markers: Iterable[str]) -> int:
    """Characters at the end of the head that begin a marker: they belong to the answer."""
    begun = [
        length
        for marker in markers
        for length in range(1, len(marker))
        if head.endswith(marker[:length])
    ]
    return max(begun, default=0)


def _take_hidden_away(
    renderer: ChatRenderer, text: str, specs: Sequence[ReasoningParserSpec | ToolParserSpec]
) -> str:
    """Leave of an answer what its parser is given: no end, no special tokens but its markers'."""
    tokenizer = renderer.tokenizer
    end = renderer.find_answer_end()
    if end is not None:
        text = text.rstrip().removesuffix(tokenizer.added_tokens[end].content)
    hidden = tokenizer.special_ids - find_marker_ids(tokenizer, *specs)
    for id_ in sorted(hidden, key=lambda id_: -len(tokenizer.added_tokens[id_].content)):
        text = text.replace(tokenizer.added_tokens[id_].content, "")
    return text


def _read(
    reasoning: ReasoningParserSpec | None,
    spec: ToolParserSpec | None,
    context: AnswerContext,
    text: str,
) -> list[Event]:
    parser = make_parser(reasoning, spec, context)
    return [*parser.feed(text), *parser.finish()]


def _join(events: Iterable[Event], kind: type[Content | Reasoning | CallArguments]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))
