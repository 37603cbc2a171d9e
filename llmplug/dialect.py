"""What a dialect is made of: the events of an answer, and tables of how a model writes it.

A dialect is a family's way of writing reasoning and tool calls. Most are a table: markers and how
values stand between them. `llmplug.chat.channels` follows the tables; a dialect that no table fits
brings a `Parser` of its own.

Markers are compared as text. A table holds them exactly as the model writes them; white space
next to a marker, on either side, belongs to nobody and is dropped. White space at either end of a
marker in a table, such as a line break, therefore counts only where forced calls are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from llmplug.grammar import Node


# --- events -------------------------------------------------------------------------------------
class Content(msgspec.Struct, frozen=True):
    """Text of the answer."""

    text: str


class Reasoning(msgspec.Struct, frozen=True):
    """Text of the thinking before or between answers."""

    text: str


class CallStart(msgspec.Struct, frozen=True):
    """A tool call begins; calls of one answer are numbered from 0 and never overlap."""

    index: int
    name: str
    id: str | None = None  # as the model wrote it; None: the server makes one


class CallArguments(msgspec.Struct, frozen=True):
    """More of the arguments' JSON text, as the model wrote it."""

    index: int
    text: str


class CallEnd(msgspec.Struct, frozen=True):
    """A tool call is over."""

    index: int
    is_complete: bool  # False: it broke off, or what followed was malformed


Event = Content | Reasoning | CallStart | CallArguments | CallEnd


class Parser(Protocol):
    """Splits one answer; keeps its own state, is linear in its input and never repairs JSON.

    However the text is cut into pieces, the events put together are the same.
    """

    def feed(self, text: str) -> list[Event]:
        """Take more text; return what is certain by now."""

    def finish(self) -> list[Event]:
        """Say that the answer is over; every call that has begun ends here."""


# --- what a request brings ----------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)  # JSON schema; {}: anything
    description: str = ""
    is_strict: bool = False  # its arguments must fit the schema


@dataclass(frozen=True, slots=True)
class AnswerContext:
    """What a parser is told before an answer begins.

    Attributes:
        tools: the functions of the request; empty: nothing is read as a call.
        prompt_end: the text that the template wrote after the last message; an answer to
            `...<think>` begins within its reasoning.
    """

    tools: tuple[Tool, ...] = ()
    prompt_end: str = ""


# --- sections of calls --------------------------------------------------------------------------
@dataclass(slots=True, kw_only=True)  # not frozen: to make one would take three times as long
class Opening:
    """Where a section of calls begins.

    Attributes:
        marker: the start marker that was met; "": the section is bare, and its first character
            is the first that the reader is fed.
        space: white space that stood before the marker and behind it is what a reader drops;
            this is what stood before, given back where the section turns out to be no call.
        first_index: of the next call.
        tools: the functions of the request.
    """

    marker: str
    space: str
    first_index: int
    tools: Sequence[Tool]


class CallReader(Protocol):
    """Reads one section of calls, from behind its start marker to behind its end marker.

    What turns out to be no call is not lost: it comes out as Content, marker and white space
    included, once that is certain. Where a call goes wrong after its CallStart, it ends there,
    incomplete, and the text from the bad place on is Content, up to the end marker, which closes
    the section. A key that holds the arguments a second time is such a bad place, and so are
    arguments that are no object. White space inside arguments is theirs. A call without arguments
    has the arguments `{}`.
    """

    # Once it has ended:
    ended_as_text: bool  # what is left over goes on as the text it became
    text_until: str  # the section goes on as text up to this marker; "": it is over

    def feed(self, text: str) -> tuple[list[Event], str | None]:
        """Take more text.

        Returns:
            What is certain by now, and once the section has ended the text left over, else None.
            After that the reader is done with.
        """

    def finish(self) -> list[Event]:
        """Say that the answer ends within the section.

        A call without a name comes out as Content; one with a name ends, incomplete unless its
        arguments are whole.
        """


# --- reasoning ----------------------------------------------------------------------------------
class HeaderReader(Protocol):
    """Reads the header of a text, in answers that are a row of them: ` to=self<|message|>`."""

    is_thinking: bool  # once the header has ended: whether a thought begins

    def feed(self, text: str) -> str | None:
        """Take more text.

        Returns:
            None while it may be a header; then what stands behind it, or all of it if it is none.
        """

    def finish(self) -> str:
        """Say that the answer ends here; return what is no header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    """Headers that say which texts of an answer are thoughts, read by hand.

    Attributes:
        markers: that are looked for, so that special tokens among them are seen.
        open: given the prompt's end, or "" behind a marker that ends a text: makes the reader of
            the header that follows; None: the prompt goes as far as the text.
    """

    markers: tuple[str, ...]
    open: Callable[[str], HeaderReader | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningSyntax:
    """Thinking between two markers.

    Attributes:
        start: markers that open a block; the first is what templates write.
        end: marker that closes it.
        is_implied: an answer begins within a block though neither prompt nor model opens one.
        ended_by: markers that close a block and are not part of it, such as that of a tool call.
            Any other marker within a block is its text.
        answer: markers that a model puts round what is no thinking; they are dropped.
        dropped: markers that say nothing, such as the end of a message; they are dropped wherever
            neither thinking nor calls are open.
        headers: that stand before each text, behind `end`, and behind what is dropped.
    """

    start: tuple[str, ...]
    end: str
    is_implied: bool = False
    ended_by: tuple[str, ...] = ()
    answer: tuple[str, str] | None = None
    dropped: tuple[str, ...] = ()
    headers: Headers | None = None


# --- tool calls ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class JsonCalls:
    """Calls as JSON objects: `<tool_call>{"name": "f", "arguments": {...}}</tool_call>`.

    Attributes:
        start: markers that open a section; the first is what forced calls are written with.
        end: marker that closes it; "": the JSON's own end does.
        holds: what stands in a section: one object, one list of objects, or objects one after
            the other, with white space, `,` or `;` between.
        name_key: key of the function's name; "": each object is `{name: arguments}`.
        arguments_key: keys that hold the arguments; the first is what forced calls use.
        is_bare: a section may also begin without marker, where the content of an answer begins
            with JSON of this form and the name is one of the request's tools.
    """

    start: tuple[str, ...]
    end: str = ""
    holds: Literal["object", "list", "objects"] = "object"
    name_key: str = "name"
    arguments_key: tuple[str, ...] = ("arguments",)
    is_bare: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCalls:
    """Calls whose name stands before a JSON object: `[TOOL_CALLS]f[ARGS]{...}`.

    Attributes:
        section: markers round all calls, as `("<calls>", "</calls>")`; None: each stands alone.
        start: marker before the name.
        after_name: marker between name and arguments.
        end: marker behind the arguments; "": the JSON's own end.
        name_pattern: regular expression that the text between `start` and `after_name` matches
            whole, with groups `name` and perhaps `id`; "": all of it is the name.
        name_format: how a forced call writes the name, `{name}` and `{index}` filled in.
    """

    start: str
    after_name: str
    end: str = ""
    section: tuple[str, str] | None = None
    name_pattern: str = ""
    name_format: str = "{name}"


ValueKind = Literal["schema", "text", "json"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # by identity: it holds a mapping
class TaggedCalls:
    """Calls whose parameters stand in tags: `<function=f><parameter=k>v</parameter></function>`.

    The arguments' JSON text is made here, in the order in which the parameters stand: `text` is a
    string, `json` is kept as it is if it is valid JSON, else a string; `schema` is whichever the
    parameter's schema asks for (a string where it allows strings and the text is no other JSON
    that it allows, and where nothing is known of it JSON if it is valid, else a string).

    Attributes:
        section: markers round all calls; None: each stands alone.
        is_single: forced calls are written with a section round each.
        around: markers round each call of a section; a model may leave them out.
        name: markers before and behind the name.
        key: markers before and behind a parameter's name; further ends decide the kind of its
            value: `{'" string="true">': "text", '" string="false">': "json"}`.
        value: marker between key and value ("": the key's end), and that behind the value.
        end: marker that closes a call.
        pad: text that a template puts on both sides of a value, dropped once on each.
        quotes: markers that may stand round a value, within which its end is no end.
    """

    name: tuple[str, str]
    key: tuple[str, Mapping[str, ValueKind]]
    value: tuple[str, str]
    end: str
    section: tuple[str, str] | None = None
    is_single: bool = False
    around: tuple[str, str] | None = None
    pad: str = ""
    quotes: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonCalls:
    """Calls as Python writes them: `[f(a=1), g(b="x")]`, or one a line.

    Arguments become JSON; values are literals of Python or of JSON. A call with positional
    arguments, or with anything that is no literal, is malformed.

    Attributes:
        start: markers that open a section.
        end: marker that closes it; "": the list's own end.
        is_list: brackets stand round the calls and commas between them; else line breaks.
        is_bare: a section may also begin without marker, where the content of an answer begins
            with `[` and a name of the request's tools.
    """

    start: tuple[str, ...]
    end: str = ""
    is_list: bool = True
    is_bare: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BraceCalls:
    """Calls whose keys are bare words: `call:f{k:<quote>v<quote>,n:1,flags:[true]}`.

    Attributes:
        start: marker before the name.
        quote: marker on both sides of a string; within it nothing is escaped.
        end: marker behind the closing brace.
    """

    start: str
    quote: str
    end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomCalls:
    """Calls that no other table fits: read and written by hand, with `llmplug.answer_parts`.

    Attributes:
        start: markers that open a section.
        markers: others that are looked for, so that special tokens among them are seen.
        open: makes the reader of a section.
        write: (tools, least calls, most calls or None) -> what forced calls look like, from the
            first marker to the last.
    """

    start: tuple[str, ...]
    markers: tuple[str, ...]
    open: Callable[[Opening], CallReader]
    write: Callable[[Sequence[Tool], int, int | None], Node]


CallSyntax = JsonCalls | NamedCalls | TaggedCalls | PythonCalls | BraceCalls | CustomCalls


# --- detection ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Match:
    """How well a dialect fits a model: the highest score wins."""

    score: float  # 0: not at all; 1: certain
    reason: str


NO_MATCH = Match(0.0, "")

Detect = Callable[[str, Mapping[str, Any], frozenset[str]], Match]


def in_template(*texts: str, unless: Sequence[str] = (), score: float = 0.8) -> Detect:
    """Make a `detect` that looks for texts in a chat template.

    Args:
        texts: that must all be there.
        unless: that must not be there.
        score: if so.
    """

    def detect(template: str, config: Mapping[str, Any], vocab: frozenset[str]) -> Match:
        del config, vocab
        if not all(text in template for text in texts):
            return NO_MATCH
        if any(text in template for text in unless):
            return NO_MATCH
        return Match(score, f"its template writes {', '.join(texts)}")

    return detect
