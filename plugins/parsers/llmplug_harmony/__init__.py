"""Harmony, the format of gpt-oss: messages with headers, each in a channel.

`parser.py` reads whole answers; the table is what grammars and budgets go by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import AnswerContext, ReasoningSyntax, Tool, in_template
from llmplug.grammar import Anything, Json, Node, OneOf, Repeat, Seq, Text, Until

if TYPE_CHECKING:
    from llmplug.dialect import Parser

# https://github.com/openai/harmony/blob/main/docs/format.md
_THINKING = ReasoningSyntax(start=("<|channel|>analysis<|message|>",), end="<|end|>")
_NEXT = Text("<|end|><|start|>assistant")
_detect = in_template("<|start|>", "<|channel|>", "<|message|>", "<|call|>", score=0.9)


def _make_parser(context: AnswerContext) -> Parser:
    from llmplug_harmony.parser import HarmonyParser

    return HarmonyParser(context)


def _write_calls(tools: Sequence[Tool], least: int, most: int | None) -> Node:
    """A call ends an answer, so that no more are written than must be."""
    del most
    call = OneOf([_write_call(tool) for tool in tools])
    calls = Seq([call, *[part for _ in range(least - 1) for part in (_NEXT, call)]])
    return calls if least else Repeat(calls, 0, 1)


def _write_call(tool: Tool) -> Node:
    header = f"<|channel|>commentary to=functions.{tool.name} <|constrain|>json<|message|>"
    return Seq([Text(header), Json({**tool.parameters, "type": "object"})])


def _write_answer(text: Node | None, calls: Node | None, prompt_end: str) -> Node:
    """Thoughts, and then content or a call; what is told beforehand is content of any form."""
    if text is not None and prompt_end and "<|start|>" not in prompt_end:
        return text  # the message has begun already
    before = [Text("<|channel|>analysis<|message|>")]
    if calls is not None and isinstance(text, Anything):
        before.append(Text("<|channel|>commentary<|message|>"))
    messages = Repeat(Seq([OneOf([*before]), Until("<|end|>"), Text("<|start|>assistant")]))
    last = [calls] if calls is not None else []
    if text is not None:
        last.append(Seq([Text("<|channel|>final<|message|>"), text]))
    return Seq([messages, OneOf(last)])


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `harmony`."""
    return [
        ToolParserSpec(
            name="harmony",
            detect=_detect,
            make=_make_parser,
            grammar=_write_calls,
            answer_grammar=_write_answer,
            is_whole=True,
        )
    ]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `harmony`."""
    return [
        ReasoningParserSpec(
            name="harmony",
            detect=_detect,
            syntax=_THINKING,
            make=_make_parser,
            effort_variable="reasoning_effort",
        )
    ]
