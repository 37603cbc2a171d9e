"""Split an answer into content, reasoning and tool calls, as it comes.

One machine for every dialect that is a table: it looks for markers in content and in reasoning,
and leaves what stands between markers of calls to a reader of `llmplug.chat.calls`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmplug.answer_parts.marker_search import search_for
from llmplug.chat.calls import is_bare_start, open_reader, start_markers
from llmplug.dialect import CallArguments, CallStart, Content, Event, Opening, Reasoning

if TYPE_CHECKING:
    from llmplug.answer_parts.marker_search import MarkerSearch
    from llmplug.dialect import (
        AnswerContext,
        CallReader,
        CallSyntax,
        HeaderReader,
        Parser,
        ReasoningSyntax,
    )
    from llmplug.specs import ReasoningParserSpec, ToolParserSpec

# Characters that are looked at together: each marker costs a copy of what stands behind it.
_MOST_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a model writes thinking and calls, and what is wrong with that, if anything is."""

    reasoning: ReasoningParserSpec | None = None
    tools: ToolParserSpec | None = None
    problems: tuple[str, ...] = ()


def make_parser(
    reasoning: ReasoningParserSpec | None, tools: ToolParserSpec | None, context: AnswerContext
) -> Parser:
    """Make the parser of one answer.

    Without tools in the context nothing is read as a call. A parser made by hand takes the whole
    answer, or what a table of the other kind leaves as content.
    """
    if tools is not None and tools.make is not None and tools.is_whole:
        return tools.make(context)
    calls = tools if context.tools else None
    by_hand = [spec.make(context) for spec in (reasoning, calls) if spec is not None and spec.make]
    if len(by_hand) == 2:
        return ParserChain(*by_hand)
    thinking = reasoning.syntax if reasoning is not None and reasoning.make is None else None
    tables = calls.syntax if calls is not None and calls.make is None else ()
    if by_hand and thinking is None and not tables:
        return by_hand[0]
    table = ChannelSplitter(thinking, tables, context)
    if not by_hand:
        return table
    is_thinking = reasoning is not None and reasoning.make is not None
    return ParserChain(by_hand[0], table) if is_thinking else ParserChain(table, by_hand[0])


def begins_in_reasoning(syntax: ReasoningSyntax, prompt_end: str) -> bool:
    """Whether an answer to a prompt that ends so begins within a block of thinking."""
    opened = max((prompt_end.rfind(marker.strip()) for marker in syntax.start), default=-1)
    closed = prompt_end.rfind(syntax.end.strip())
    return opened > closed or (syntax.is_implied and closed < 0)


def _is_open(prompt_end: str, start: str, end: str) -> bool:
    """Whether a prompt ends between two markers."""
    return prompt_end.rfind(start) > prompt_end.rfind(end)


def _written_thought(starts: Sequence[str], prompt_end: str) -> str:
    """What stands of a thought in the prompt, behind the marker that opens it."""
    ends = [prompt_end.rfind(start) + len(start) for start in starts if start in prompt_end]
    return prompt_end[max(ends, default=len(prompt_end)) :].strip()


class ChannelSplitter:
    """The parser of dialects that are tables.

    A block of thinking opens at the beginning of the answer and behind a call or another block,
    not in the midst of content: there its marker is text. An end marker is text too where no block
    is open: what stands before it has been sent as content, and nothing is ever taken back.
    """

    def __init__(
        self,
        reasoning: ReasoningSyntax | None,
        calls: Sequence[CallSyntax],
        context: AnswerContext,
    ) -> None:
        self._context = context
        self._calls = calls
        self._by_marker = {
            marker: syntax for syntax in reversed(calls) for marker in start_markers(syntax)
        }
        thinking_starts = [each.strip() for each in reasoning.start] if reasoning else []
        self._thinking_end = reasoning.end.strip() if reasoning else ""
        ended_by = [each.strip() for each in reasoning.ended_by] if reasoning else []
        self._in_thinking = search_for(self._thinking_end, *ended_by)
        around = reasoning.answer if reasoning and reasoning.answer else ()
        self._answer = tuple(each.strip() for each in around)
        self._is_in_answer = bool(around) and _is_open(context.prompt_end, *self._answer)
        self._dropped = [each.strip() for each in reasoning.dropped] if reasoning else []
        self._in_content = search_for(*self._by_marker, *self._answer[1:], *self._dropped)
        self._at_start = search_for(
            *self._by_marker, *thinking_starts, *self._answer, *self._dropped
        )
        self._is_thinking = reasoning is not None and begins_in_reasoning(
            reasoning, context.prompt_end
        )
        self._headers = reasoning.headers if reasoning else None
        self._header = self._headers.open(context.prompt_end) if self._headers else None
        self._reader: CallReader | None = None
        self._in_rest: MarkerSearch | None = None  # ends text behind a malformed place
        self._num_calls = 0
        self._held = ""  # may be the beginning of a marker
        self._beginnings: frozenset[str] = frozenset()  # of the markers that are looked for
        self._is_whole = False  # nothing follows: no beginning becomes a marker
        self._space: list[str] = []  # white space that a marker may follow
        # A marker stood right before.
        self._drops_space = self._header is not None or (
            self._is_thinking and not _written_thought(thinking_starts, context.prompt_end)
        )
        self._is_at_start = True  # nothing but white space since the start or a marker
        self._events: list[Event] = []

    def feed(self, text: str) -> list[Event]:
        """Take more text; see `Parser`."""
        if len(text) > _MOST_AT_ONCE:
            starts = range(0, len(text), _MOST_AT_ONCE)
            return [e for at in starts for e in self.feed(text[at : at + _MOST_AT_ONCE])]
        left: str | None = self._held + text
        if self._reader is not None:  # nothing is held then
            events, left = self._reader.feed(text)
            is_piece = not events or (len(events) == 1 and type(events[0]) is CallArguments)
            if is_piece and left is None:  # quick: most characters of calls end here
                return events
            left = self._take_read(self._reader, events, left)
        elif left in self._beginnings:  # quick: most characters of markers end here
            self._held = self._held + text
            return []
        self._held = ""
        while left:
            if self._reader is not None:
                left = self._take_read(self._reader, *self._reader.feed(left))
            elif self._in_rest is not None:
                left = self._read_rest(left, self._in_rest)
            elif self._header is not None:
                left = self._read_header(self._header, left)
            elif self._is_thinking:
                left = self._read_thinking(left)
            else:
                left = self._read_content(left)
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Event]:
        """Say that the answer is over; see `Parser`."""
        self._is_whole, self._beginnings = True, frozenset()
        left = self._header.finish() if self._header is not None else ""
        self._header = None
        events = self.feed(left)
        if self._reader is not None:
            self._take_read(self._reader, self._reader.finish(), None)
            self._reader = None
        self._say("".join(self._space))
        return events + self._events

    def _take_read(self, reader: CallReader, events: list[Event], left: str | None) -> str | None:
        """Take what a reader says, and what it leaves once it has ended."""
        for event in events:  # by `type`: `isinstance` takes several times as long to say no
            if type(event) is Content:
                self._show(event.text)
                continue
            if type(event) is CallStart:
                self._num_calls += 1
            self._events.append(event)
        if left is not None:
            self._reader = None
            if reader.text_until:
                self._in_rest = search_for(reader.text_until)
            elif not reader.ended_as_text:
                self._meet_marker()
        return left

    def _read_header(self, header: HeaderReader, text: str) -> str | None:
        left = header.feed(text)
        if left is not None:
            self._header = None
            self._is_thinking = header.is_thinking
        return left

    def _read_thinking(self, text: str) -> str | None:
        marker, rest = self._show_up_to(text, self._in_thinking)
        if not marker:
            return None
        self._is_thinking = False
        self._end_text()
        return rest if marker == self._thinking_end else marker + rest

    def _read_rest(self, text: str, end: MarkerSearch) -> str | None:
        marker, rest = self._show_up_to(text, end)
        if not marker:
            return None
        self._in_rest = None
        self._meet_marker()
        return rest

    def _read_content(self, text: str) -> str | None:
        if self._is_at_start:
            return self._read_first(text)
        marker, rest = self._show_up_to(text, self._in_content)
        return self._go_on(marker, rest) if marker else None

    def _show_up_to(self, text: str, markers: MarkerSearch) -> tuple[str, str]:
        """Show what stands before a marker; return that, "" if none has come, and what follows."""
        if markers.firsts.isdisjoint(text):  # quick: most characters end here
            self._show(text)
            return "", ""
        found = markers.find(text, is_whole=self._is_whole)
        if found.at:
            self._show(text[: found.at])
        if found.marker:
            return found.marker, text[found.at + len(found.marker) :]
        self._held, self._beginnings = text[found.at :], markers.beginnings
        return "", ""

    def _read_first(self, text: str) -> str | None:
        """Read content behind a marker, or the first: thinking and bare calls may begin here."""
        text = self._take_space(text)
        if not text:
            return None
        marker = self._at_start.begins(text, is_whole=self._is_whole)
        if marker == "":
            self._held, self._beginnings = text, self._at_start.beginnings
            return None
        if marker is not None:
            return self._go_on(marker, text[len(marker) :])
        self._beginnings = frozenset()
        bare = next((each for each in self._calls if is_bare_start(each, text)), None)
        if bare is not None:
            self._open_reader(bare, "")
        self._is_at_start = False
        return text

    def _go_on(self, marker: str, text: str) -> str:
        """Behind a marker."""
        if marker in self._by_marker:
            self._open_reader(self._by_marker[marker], marker)
        elif marker in self._answer:
            self._meet_answer(marker)
        elif marker in self._dropped:
            self._end_text()
        else:
            self._is_thinking = True
            self._meet_marker()
        return text

    def _end_text(self) -> None:
        self._meet_marker()
        if self._headers is not None:
            self._header = self._headers.open("")

    def _meet_answer(self, marker: str) -> None:
        """Drop a marker that stands round the answer; an end without a start is text."""
        is_start = marker == self._answer[0]
        if is_start or self._is_in_answer:
            self._is_in_answer = is_start
            self._meet_marker()
        else:
            self._is_at_start = False
            self._show(marker)

    def _open_reader(self, syntax: CallSyntax, marker: str) -> None:
        opening = Opening(
            marker=marker,
            space="".join(self._space),
            first_index=self._num_calls,
            tools=self._context.tools,
        )
        self._space = []
        self._drops_space = False  # white space in what a reader gives back is text
        self._is_at_start = False
        self._beginnings = frozenset()
        self._reader = open_reader(syntax, opening)

    def _meet_marker(self) -> None:
        self._space = []
        self._drops_space = self._is_at_start = True
        self._beginnings = frozenset()

    def _take_space(self, text: str) -> str:
        """Keep or drop white space at the beginning of `text`; return the rest."""
        rest = text.lstrip()
        if not self._drops_space and len(rest) < len(text):
            self._space.append(text[: len(text) - len(rest)])
        return rest

    def _show(self, text: str) -> None:
        """Let text out, but keep white space at its end back."""
        if self._drops_space:
            text = text.lstrip()
        body = text.rstrip()
        if body:
            self._drops_space = False
            said = "".join([*self._space, body]) if self._space else body
            self._events.append(Reasoning(said) if self._is_thinking else Content(said))
            self._space = []
        if len(body) < len(text):
            self._space.append(text[len(body) :])

    def _say(self, text: str) -> None:
        if text:
            self._events.append(Reasoning(text) if self._is_thinking else Content(text))


class ParserChain:
    """A parser of thinking, and behind it one that reads calls in what it leaves as content."""

    def __init__(self, first: Parser, second: Parser) -> None:
        self._first = first
        self._second = second

    def feed(self, text: str) -> list[Event]:
        """Take more text; see `Parser`."""
        events = self._first.feed(text)
        if len(events) == 1 and type(events[0]) is Content:  # quick: most are content alone
            return self._second.feed(events[0].text)
        return self._pass_on(events) if events else events

    def finish(self) -> list[Event]:
        """Say that the answer is over; see `Parser`."""
        return self._pass_on(self._first.finish()) + self._second.finish()

    def _pass_on(self, events: Iterable[Event]) -> list[Event]:
        out: list[Event] = []
        for event in events:
            out += self._second.feed(event.text) if isinstance(event, Content) else [event]
        return out
