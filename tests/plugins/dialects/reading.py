"""Read what models write with a dialect of a plugin, and try its grammar on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from llmplug.chat.call_grammar import build_call_grammar
from llmplug.dialect import Tool
from llmplug.grammar import Node, Vocabulary
from llmplug.specs import ReasoningParserSpec, ToolParserSpec
from llmplug.testing import check_reasoning_parser, check_tool_parser
from llmplug.testing.answers import read
from llmplug.testing.dialect_properties import WriteCalls
from llmplug_llguidance.backend import LlguidanceBackend

TOOLS = (
    Tool(
        "get_weather",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "is_metric": {"type": "boolean"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "place": {"type": "object", "properties": {"lat": {"type": "number"}}},
            },
            "required": ["city"],
        },
    ),
    Tool("get_time", {"type": "object", "properties": {}}),
)
_PIECES = (1, 3, 7, 10_000)  # characters
_END = 256


@dataclass(frozen=True)
class Call:
    """A call as it was read; the arguments of an incomplete one are a text."""

    name: str
    arguments: Any
    id: str | None = None
    is_complete: bool = True


@dataclass(frozen=True)
class Answer:
    """An answer as it was read."""

    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)


class PluginDialect:
    """The dialect of one name that a plugin offers."""

    def __init__(self, plugin: ModuleType, calls: str, thinking: str | None = None) -> None:
        specs: list[ToolParserSpec] = plugin.llmplug_tool_parsers()
        (self.tools,) = [spec for spec in specs if spec.name == calls]
        self.reasoning: ReasoningParserSpec | None = None
        if thinking is not None:
            offered: list[ReasoningParserSpec] = plugin.llmplug_reasoning_parsers()
            (self.reasoning,) = [spec for spec in offered if spec.name == thinking]

    def read(self, text: str, prompt_end: str = "", tools: tuple[Tool, ...] = TOOLS) -> Answer:
        """Read an answer in pieces of several lengths, which must not change it."""
        answers = [
            self._read(
                [text[at : at + length] for at in range(0, len(text), length)], prompt_end, tools
            )
            for length in _PIECES
        ]
        assert all(answer == answers[0] for answer in answers), answers
        return answers[0]

    def _read(self, pieces: list[str], prompt_end: str, tools: tuple[Tool, ...]) -> Answer:
        answer = read(
            pieces, self.tools, self.reasoning, prompt_end=prompt_end, callable_tools=tools
        )
        calls = [
            Call(
                call.name,
                json.loads(call.arguments) if call.is_complete else call.arguments,
                call.id,
                call.is_complete,
            )
            for call in answer.calls
        ]
        return Answer(answer.content, answer.reasoning, calls)

    def allows(self, text: str, *, most: int | None = None) -> bool:
        """Whether the grammar of forced calls allows a text, from the first byte to the last."""
        return accepts(build_call_grammar(self.tools, TOOLS, least=1, most=most), text)

    def check(self, write: WriteCalls | None = None) -> None:
        """Check what holds for every dialect; `write`: for calls that no table writes."""
        check_tool_parser(
            self.tools,
            reasoning=self.reasoning,
            write=write,
            num_examples=30,
            num_chars=0,  # test_speed.py does that
        )
        if self.reasoning is not None:
            check_reasoning_parser(self.reasoning, num_examples=30, num_chars=0)


def accepts(grammar: Node, text: str, control_texts: Sequence[str] = ()) -> bool:
    """Whether a grammar allows a text of bytes and control tokens, from first to last."""
    vocabulary = Vocabulary(
        token_bytes=[bytes([each]) for each in range(256)] + [b""] * (1 + len(control_texts)),
        control_ids={each: _END + 1 + at for at, each in enumerate(control_texts)},
        end_ids=frozenset({_END}),
        encode=lambda plain: list(plain.encode()),
    )
    state = LlguidanceBackend(vocabulary).compile(grammar).start()
    ids: list[int] = []
    for piece in vocabulary.split(text):
        ids += [piece] if isinstance(piece, int) else piece.encode()
    return all(state.accept(each) for each in ids) and (state.is_done or state.accept(_END))
