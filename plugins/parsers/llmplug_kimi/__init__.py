"""Kimi K2 and K3: calls with an id in a section of their own, or elements with typed arguments.

The name of a call of K2 stands within its id alone, so calls that come back in a conversation must
keep it. K3 writes all of an answer as elements of XTML, whose brackets are tokens: `xtml_reader.py`
reads calls, `xtml_grammar.py` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import CustomCalls, NamedCalls, Opening, ReasoningSyntax, Tool, in_template

if TYPE_CHECKING:
    from llmplug.dialect import CallReader
    from llmplug.grammar import Node

_START = "<|tool_calls_section_begin|>"

# https://huggingface.co/moonshotai/Kimi-K2-Instruct, docs/tool_call_guidance.md
_CALLS = NamedCalls(
    section=(_START, "<|tool_calls_section_end|>"),
    start="<|tool_call_begin|>",
    after_name="<|tool_call_argument_begin|>",
    end="<|tool_call_end|>",
    name_pattern=r"(?P<id>(?:functions\.)?(?P<name>.+):\d+)",
    name_format="functions.{name}:{index}",
)
# https://huggingface.co/moonshotai/Kimi-K2-Thinking, chat template
_THINKING = ReasoningSyntax(start=("<think>",), end="</think>", ended_by=(_START,))


def _open_xtml(opening: Opening) -> CallReader:
    from llmplug_kimi.xtml_reader import XtmlReader

    return XtmlReader(opening)


def _write_xtml(tools: Sequence[Tool], least: int, most: int | None) -> Node:
    from llmplug_kimi.xtml_grammar import write_calls

    return write_calls(tools, least, most)


def _write_xtml_answer(text: Node | None, calls: Node | None, prompt_end: str) -> Node:
    from llmplug_kimi.xtml_grammar import write_answer

    return write_answer(text, calls, prompt_end)


# https://huggingface.co/moonshotai/Kimi-K3, encoding_k3.py
_TOOLS, _RESPONSE = "<|open|>tools<|sep|>", "<|open|>response<|sep|>"
_MESSAGE_END = "<|close|>message<|sep|>"
_XTML_CALLS = CustomCalls(
    start=(_TOOLS,),
    markers=("<|open|>", "<|close|>", "<|sep|>"),
    open=_open_xtml,
    write=_write_xtml,
)
_XTML_THINKING = ReasoningSyntax(
    start=("<|open|>think<|sep|>",),
    end="<|close|>think<|sep|>",
    ended_by=(_TOOLS, _RESPONSE, _MESSAGE_END),
    answer=(_RESPONSE, "<|close|>response<|sep|>"),
    dropped=(_MESSAGE_END,),
)
_detect_xtml = in_template("<|open|>", "<|close|>", "<|sep|>", score=0.9)


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `kimi_k2` and `kimi_k3`."""
    return [
        ToolParserSpec(
            name="kimi_k2",
            detect=in_template(_START, score=0.9),
            syntax=(_CALLS,),
            make_id=lambda name, index: f"functions.{name}:{index}",
        ),
        ToolParserSpec(
            name="kimi_k3",
            detect=_detect_xtml,
            syntax=(_XTML_CALLS,),
            answer_grammar=_write_xtml_answer,
        ),
    ]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `kimi_k2` and `kimi_k3`."""
    return [
        ReasoningParserSpec(
            name="kimi_k2",
            detect=in_template("</think>", _START, score=0.9),
            syntax=_THINKING,
            thinking_on={"thinking": True},
            thinking_off={"thinking": False},
        ),
        ReasoningParserSpec(
            name="kimi_k3",
            detect=_detect_xtml,
            syntax=_XTML_THINKING,
            thinking_on={"thinking": True},
            thinking_off={"thinking": False},
            effort_variable="thinking_effort",
        ),
    ]
