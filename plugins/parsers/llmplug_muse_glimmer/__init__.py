"""Muse Glimmer: messages with headers that say to whom they go, calls in tags.

`header.py` reads the headers: a message `to=self` is thinking; all else is content, in which calls
are read by their tags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import Headers, ReasoningSyntax, TaggedCalls, in_template
from llmplug.grammar import Node, OneOf, Regex, Repeat, Seq, Text, Until

if TYPE_CHECKING:
    from llmplug.dialect import HeaderReader

# https://github.com/huggingface/trl/blob/main/trl/chat_templates/muse_glimmer.jinja
_CALLS = TaggedCalls(
    section=("<atem:function_calls>", "</atem:function_calls>"),
    is_single=True,
    name=('<atem:invoke name="', '">'),
    key=('<atem:parameter name="', {'">': "schema"}),
    value=("", "</atem:parameter>"),
    end="</atem:invoke>",
)


def _open_header(prompt_end: str) -> HeaderReader | None:
    from llmplug_muse_glimmer.header import MessageHeader, is_text_open

    return None if is_text_open(prompt_end) else MessageHeader()


_THINKING = ReasoningSyntax(
    start=(" to=self<|message|>",),
    end="<|eom|>",
    ended_by=("<|eot|>",),
    dropped=("<|eom|>", "<|eot|>"),
    headers=Headers(markers=("<|start|>", "<|message|>"), open=_open_header),
)


def _write_answer(text: Node | None, calls: Node | None, prompt_end: str) -> Node:
    """Thoughts, and then content or calls."""
    if text is not None and prompt_end and "<|start|>" not in prompt_end:
        return text  # the message has begun already
    thought = Seq([Text(" to=self<|message|>"), Until("<|eom|>"), Text("<|start|>assistant")])
    last: list[Node] = []
    if calls is not None:
        last.append(Seq([Text(" to="), Regex(r"[\w.-]{1,64}"), Text("<|message|>"), calls]))
    if text is not None:
        last.append(Seq([Text(" to=user<|message|>"), text]))
    return Seq([Repeat(thought), OneOf(last)])


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `muse_glimmer`."""
    detect = in_template("<atem:function_calls>", score=0.9)
    return [
        ToolParserSpec(
            name="muse_glimmer", detect=detect, syntax=(_CALLS,), answer_grammar=_write_answer
        )
    ]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `muse_glimmer`."""
    return [
        ReasoningParserSpec(
            name="muse_glimmer",
            detect=in_template("to=self<|message|>", "<|eom|>", score=0.9),
            syntax=_THINKING,
            effort_variable="reasoning_strength",
        )
    ]
