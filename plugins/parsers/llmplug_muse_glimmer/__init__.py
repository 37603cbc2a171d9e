"""Muse Glimmer: messages with headers that say to whom they go, calls in tags.

`parser.py` reads the headers: a message `to=self` is thinking; all else is content, in which calls
are read by their tags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import AnswerContext, ReasoningSyntax, TaggedCalls, in_template

if TYPE_CHECKING:
    from llmplug.dialect import Parser

# https://github.com/huggingface/trl/blob/main/trl/chat_templates/muse_glimmer.jinja
_CALLS = TaggedCalls(
    section=("<atem:function_calls>", "</atem:function_calls>"),
    is_single=True,
    name=('<atem:invoke name="', '">'),
    key=('<atem:parameter name="', {'">': "schema"}),
    value=("", "</atem:parameter>"),
    end="</atem:invoke>",
)
_THINKING = ReasoningSyntax(start=(" to=self<|message|>",), end="<|eom|>")


def _make_parser(context: AnswerContext) -> Parser:
    from llmplug_muse_glimmer.parser import MessageParser

    return MessageParser(context)


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `muse_glimmer`."""
    detect = in_template("<atem:function_calls>", score=0.9)
    return [ToolParserSpec(name="muse_glimmer", detect=detect, syntax=(_CALLS,))]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `muse_glimmer`."""
    return [
        ReasoningParserSpec(
            name="muse_glimmer",
            detect=in_template("to=self<|message|>", "<|eom|>", score=0.9),
            syntax=_THINKING,
            make=_make_parser,
            effort_variable="reasoning_strength",
        )
    ]
