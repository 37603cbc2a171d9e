"""Tool calls in text: for each table of `llmplug.dialect` a reader and the grammar it obeys.

A reader takes over behind a start marker and gives back what stands behind the end of the calls.
`json_calls.py`, `named_calls.py`, `tagged_calls.py`, `python_calls.py` and `brace_calls.py` each
hold both for one table, made of `llmplug.answer_parts`. A dialect's own reader and grammar are in
its plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmplug.chat.calls.brace_calls import BraceReader
from llmplug.chat.calls.brace_grammar import brace_grammar
from llmplug.chat.calls.json_calls import JsonReader, json_grammar
from llmplug.chat.calls.named_calls import NamedReader, named_grammar
from llmplug.chat.calls.python_calls import PythonReader, python_grammar
from llmplug.chat.calls.tagged_calls import TaggedReader
from llmplug.chat.calls.tagged_grammar import tagged_grammar
from llmplug.dialect import (
    BraceCalls,
    CustomCalls,
    JsonCalls,
    NamedCalls,
    PythonCalls,
    TaggedCalls,
)

if TYPE_CHECKING:
    from llmplug.dialect import CallReader, CallSyntax, Opening, Tool
    from llmplug.grammar import Node


def start_markers(syntax: CallSyntax) -> tuple[str, ...]:
    """Markers that open a section of calls, as they are looked for: no white space round them."""
    return tuple(marker.strip() for marker in _written_starts(syntax))


def _written_starts(syntax: CallSyntax) -> tuple[str, ...]:
    if isinstance(syntax, JsonCalls | PythonCalls | CustomCalls):
        return syntax.start
    if isinstance(syntax, BraceCalls):
        return (syntax.start,)
    if syntax.section is not None:
        return (syntax.section[0],)
    return (syntax.name[0],) if isinstance(syntax, TaggedCalls) else (syntax.start,)


def is_bare_start(syntax: CallSyntax, text: str) -> bool:
    """Whether the content of an answer that begins with `text` may be calls without marker."""
    if isinstance(syntax, JsonCalls):
        return syntax.is_bare and text[0] == ("[" if syntax.holds == "list" else "{")
    return isinstance(syntax, PythonCalls) and syntax.is_bare and text[0] == "["


_READERS: Mapping[type[CallSyntax], Callable[[Any, Opening], CallReader]] = {
    JsonCalls: JsonReader,
    NamedCalls: NamedReader,
    TaggedCalls: TaggedReader,
    PythonCalls: PythonReader,
    BraceCalls: BraceReader,
    CustomCalls: lambda syntax, opening: syntax.open(opening),
}
_GRAMMARS: Mapping[type[CallSyntax], Callable[[Any, Sequence[Tool], int, int | None], Node]] = {
    JsonCalls: json_grammar,
    NamedCalls: named_grammar,
    TaggedCalls: tagged_grammar,
    PythonCalls: python_grammar,
    BraceCalls: brace_grammar,
    CustomCalls: lambda syntax, tools, least, most: syntax.write(tools, least, most),
}


def open_reader(syntax: CallSyntax, opening: Opening) -> CallReader:
    """Make the reader of a section."""
    return _READERS[type(syntax)](syntax, opening)


def write_grammar(syntax: CallSyntax, tools: Sequence[Tool], least: int, most: int | None) -> Node:
    """What calls look like, from the first marker to the last; see `build_call_grammar`."""
    return _GRAMMARS[type(syntax)](syntax, tools, least, most)
