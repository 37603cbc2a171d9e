"""An invented dialect, Parley: how a model thinks, calls functions and is shown a conversation.

    <|says|>assistant
    <aside>They want the weather.</aside>
    <function:get_weather>
    - city: "Paris"
    - days: 3
    </function><|over|>

Each argument is a line, its value JSON. No table of `llmplug.dialect` says that, so calls are read
by `call_reader.py` and written by `call_grammar.py`; the template is `template.jinja`.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from llmplug import ChatTemplateSpec, ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import CustomCalls, Opening, ReasoningSyntax, in_template

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.dialect import CallReader, Tool
    from llmplug.grammar import Node

NAME = "example_parley"
START, END = "<|says|>", "<|over|>"


def _open_calls(opening: Opening) -> CallReader:
    from example_parley.call_reader import ParleyReader

    return ParleyReader(opening)


def _write_calls(tools: Sequence[Tool], least: int, most: int | None) -> Node:
    from example_parley.call_grammar import write_calls

    return write_calls(tools, least, most)


_CALLS = CustomCalls(
    start=("<function:",), markers=("</function>",), open=_open_calls, write=_write_calls
)
_ASIDES = ReasoningSyntax(start=("<aside>",), end="</aside>", ended_by=("<function:",))


def _fits(vocabulary: frozenset[str]) -> bool:
    return {START, END} <= vocabulary


@hookimpl
def llmplug_chat_templates() -> list[ChatTemplateSpec]:
    """Offer it by name, and to every vocabulary that has its tokens."""
    source = files(__package__).joinpath("template.jinja").read_text(encoding="utf-8")
    return [ChatTemplateSpec(name=NAME, source=source, fits=_fits, stop_tokens=(END,))]


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer it for models whose chat template writes such calls."""
    detect = in_template("<function:", "</function>", score=0.9)
    return [ToolParserSpec(name=NAME, detect=detect, syntax=(_CALLS,))]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer it for models whose chat template writes such thoughts."""
    return [
        ReasoningParserSpec(
            name=NAME,
            detect=in_template("<aside>", "</aside>", score=0.9),
            syntax=_ASIDES,
            thinking_on={"asides": True},
            thinking_off={"asides": False},
        )
    ]
