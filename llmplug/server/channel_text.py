"""One answer's text in, its content, thinking and tool calls out, ready for a reply.

The parser is a plugin's: whatever it raises costs this answer its calls, and nothing else.
"""

from __future__ import annotations

import logging
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmplug.chat.channels import make_parser
from llmplug.chat.marker_tokens import find_markers
from llmplug.dialect import (
    AnswerContext,
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Event,
    Reasoning,
)
from llmplug.server.content_tokens import ContentTokens, PlacedToken
from llmplug.server.deltas import CallDelta, ChoiceDelta
from llmplug.types import FinishReason

if TYPE_CHECKING:
    from llmplug.chat.channels import Dialect
    from llmplug.dialect import Parser

log = logging.getLogger("llmplug.server")

_ID_CHARS = string.ascii_letters + string.digits
_NUM_ID_CHARS = 24  # OpenAI's ids of calls have as many


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the answers of one request are read.

    Attributes:
        dialect: of the model; without tools in `context` its calls are not looked for.
        context: what the parser is told.
        is_named: the request names the function that is called.
        is_single: an answer ends where a second call would begin.
        shown_ids: special tokens that markers are made of.
        on_failure: called when a parser raised.
    """

    dialect: Dialect
    context: AnswerContext
    is_named: bool = False
    is_single: bool = False
    shown_ids: frozenset[int] = frozenset()
    on_failure: Callable[[], None] = lambda: None

    def start(self) -> Parser:
        """Make the parser of one answer."""
        tools = self.dialect.tools
        reads_tools = tools is not None and (bool(self.context.tools) or tools.is_whole)
        return make_parser(self.dialect.reasoning, tools if reads_tools else None, self.context)

    @property
    def markers(self) -> list[str]:
        """Every text that may stand between channels."""
        specs = (self.dialect.reasoning, self.dialect.tools)
        return [text for spec in specs if spec is not None for text in find_markers(spec)]


def choose_finish_reason(
    engine_reason: FinishReason, *, has_complete_call: bool, is_named: bool
) -> str:
    """Say why an answer ended, in OpenAI's words: the one place where this is decided.

    An answer that was cut off is `length`, whatever it holds. One that holds a complete call ends
    with `tool_calls`, but with `stop` where the request named the function.
    """
    if engine_reason is FinishReason.STOP and has_complete_call and not is_named:
        return "tool_calls"
    return engine_reason.value


class ChannelText:
    """Splits one choice's text.

    Attributes:
        num_reasoning: tokens so far that were thinking; markers that close it do not count.
        is_over: the answer may hold one call, and another one has begun.
    """

    def __init__(self, index: int, reading: Reading, *, has_tokens: bool) -> None:
        self.num_reasoning = 0
        self.is_over = False
        self._index = index
        self._reading = reading
        self._call_ids: set[str] = set()
        self._num_complete = 0
        self._content = ContentTokens(reading.markers) if has_tokens else None
        self._num_pending = 0  # tokens that may be thinking or not
        self._parser: Parser | None = None
        try:
            self._parser = reading.start()
        except Exception:  # noqa: BLE001 - a plugin may raise anything
            self._give_up()

    @property
    def has_complete_call(self) -> bool:
        """Whether a whole call was read."""
        return self._num_complete > 0

    def feed(
        self, text: str, num_tokens: int = 0, tokens: list[PlacedToken] | None = None
    ) -> list[ChoiceDelta]:
        """Take more text.

        Args:
            text: of the answer.
            num_tokens: that were generated for it.
            tokens: those whose log-probabilities are asked for, each with its place.
        """
        if self._content is not None:
            self._content.add(text, tokens or [])
        self._num_pending += num_tokens
        if not text:
            return []
        events: list[Event] = [Content(text)]
        if self._parser is not None:
            try:
                events = list(self._parser.feed(text))
            except Exception:  # noqa: BLE001 - a plugin may raise anything
                self._give_up()
        return self._tell(events)

    def finish(self) -> list[ChoiceDelta]:
        """Say that the text is over; return what was held back."""
        events: list[Event] = []
        if self._parser is not None and not self.is_over:
            try:
                events = list(self._parser.finish())
            except Exception:  # noqa: BLE001 - a plugin may raise anything
                self._give_up()
        return self._tell(events)

    def _give_up(self) -> None:
        """Go on without the parser; called while its exception is handled."""
        log.exception("a parser failed; the rest of its answer is sent as text")
        self._parser = None
        self._reading.on_failure()

    def _tell(self, events: list[Event]) -> list[ChoiceDelta]:
        deltas = []
        for event in events:
            delta = self._tell_one(event)
            if self.is_over:
                break
            if delta is not None:
                deltas.append(delta)
        return deltas

    def _tell_one(self, event: Event) -> ChoiceDelta | None:
        index = self._index
        if isinstance(event, Reasoning):
            self.num_reasoning += self._num_pending
        self._num_pending = 0
        if isinstance(event, Content):
            tokens = [] if self._content is None else self._content.take(event.text)
            return ChoiceDelta(index, event.text, tokens) if event.text else None
        if isinstance(event, Reasoning):
            if self._content is not None:
                self._content.pass_over(event.text)
            return ChoiceDelta(index, reasoning=event.text) if event.text else None
        if self._content is not None:
            self._content.pass_call()
        if isinstance(event, CallStart):
            if self._reading.is_single and event.index > 0:
                self.is_over = True
                return None
            call_id = self._choose_id(event)
            return ChoiceDelta(index, call=CallDelta(event.index, call_id, event.name))
        if isinstance(event, CallArguments):
            call = CallDelta(event.index, arguments=event.text)
            return ChoiceDelta(index, call=call) if event.text else None
        if isinstance(event, CallEnd):
            self._num_complete += event.is_complete
        return None

    def _choose_id(self, start: CallStart) -> str:
        """The model's own id, its dialect's, or a random one; none twice in an answer."""
        call_id = start.id
        tools = self._reading.dialect.tools
        if not call_id and tools is not None and tools.make_id is not None:
            try:
                call_id = tools.make_id(start.name, start.index)
            except Exception:
                log.exception("a dialect failed to make an id of a call; a random one is sent")
                self._reading.on_failure()
        if not call_id or call_id in self._call_ids:
            call_id = "call_" + "".join(secrets.choice(_ID_CHARS) for _ in range(_NUM_ID_CHARS))
        self._call_ids.add(call_id)
        return call_id
