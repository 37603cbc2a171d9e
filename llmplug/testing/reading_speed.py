"""Whether answers are read in linear time, whatever a model writes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llmplug.chat.channels import make_parser
from llmplug.dialect import AnswerContext, CustomCalls
from llmplug.testing.answer_texts import call_markers, thinking_markers
from llmplug.testing.answers import TOOLS
from llmplug.testing.call_writing import Call, write_calls
from llmplug.testing.expect import expect

if TYPE_CHECKING:
    from llmplug.specs import ReasoningParserSpec, ToolParserSpec

_MOST_S = 2.0  # of processor time, for a million characters
_NUM_TRIES = 10  # the best counts: something else may run on the machine


def check_speed(
    tools: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None = None,
    *,
    num_chars: int = 250_000,
    heads: Sequence[str] = (),
) -> None:
    """Nothing that a model can write takes more than 2 s for a million characters.

    It comes in pieces of one character, of eight, and in one piece. The time is that of an idle
    machine; on a busy one, a known piece of work tells how much slower it is.

    Args:
        num_chars: of each text; a fifth of it where they come one by one.
        heads: beginnings of answers that lead where neither markers nor written calls do.
    """
    for text, what in _texts_of(tools, reasoning, heads, num_chars):
        for size, length in ((1, num_chars // 5), (8, num_chars), (num_chars, num_chars)):
            pieces = [text[at : at + size] for at in range(0, length, size)]
            tries = (_read_s(pieces, tools, reasoning) for _ in range(_NUM_TRIES))
            most_s = _MOST_S * length / 1_000_000
            expect(
                any(s < most_s or s < most_s * _slowness() for s in tries),
                f"{length} characters, {size} at a time, take too long: {what}. Look at each "
                "character once: do not search again what was searched",
            )


def _texts_of(
    tools: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None,
    heads: Sequence[str],
    num_chars: int,
) -> Iterator[tuple[str, str]]:
    """Texts that may take long, and what they are: a head, and many of something behind it."""
    markers = [*call_markers(tools), *thinking_markers(reasoning)]
    nested = "".join(call_markers(tools)[:1]) + '{"name": "f", "arguments": {"a": '
    begun = [*markers, *(marker[:-1] for marker in markers), " ", "\n<", "[[", '{"', "a"]
    in_calls = ["a", *{f"{marker[0]}\n" for marker in markers}]
    units_behind = dict.fromkeys(_begun_calls(tools), in_calls)
    units_behind |= dict.fromkeys(("", *heads), begun)
    units_behind |= {head: ["[", '"', "1,", '{"a":', "\\\\"] for head in (nested, nested + '"')}
    for head, units in units_behind.items():
        for unit in units:
            yield (head + unit * num_chars)[:num_chars], f"{head!r} and many of {unit!r}"


def _begun_calls(tools: ToolParserSpec | None) -> list[str]:
    """Calls as the tables write them, as far as each of their markers."""
    heads = []
    for table in tools.syntax if tools is not None else ():
        if isinstance(table, CustomCalls):
            continue
        written = write_calls(table, [Call("f", {"text": "a", "count": 1}), Call("f")])
        found = [re.finditer(re.escape(marker), written) for marker in call_markers(tools)]
        ends = {match.end() for matches in found for match in matches}
        heads += [written[:end] for end in sorted(ends)]
    return heads


def _read_s(
    pieces: Sequence[str], tools: ToolParserSpec | None, reasoning: ReasoningParserSpec | None
) -> float:
    """Return the processor time for reading an answer."""
    parser = make_parser(reasoning, tools, AnswerContext(tools=TOOLS))
    start_s = time.process_time()
    for piece in pieces:
        parser.feed(piece)
    parser.finish()
    return time.process_time() - start_s


def _slowness() -> float:
    """Return how many times longer the machine needs now for what takes 10 ms on an idle one."""
    start_s = time.process_time()
    total = 0
    for number in range(200_000):
        total += number
    return max(1.0, (time.process_time() - start_s) / 0.01)
