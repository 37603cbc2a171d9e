"""Whether answers are read in linear time, whatever a model writes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmplug.chat.channels import make_parser
from llmplug.dialect import AnswerContext
from llmplug.testing.answer_texts import call_markers, thinking_markers
from llmplug.testing.answers import TOOLS
from llmplug.testing.expect import expect

if TYPE_CHECKING:
    from llmplug.specs import ReasoningParserSpec, ToolParserSpec

_NUM_TRIES = 3  # something else may run on the machine
_START_S = 0.005  # what it may take to make a parser, and its tables for the first time


def check_speed(
    tools: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None = None,
    *,
    num_chars: int = 250_000,
    heads: Sequence[str] = (),
) -> None:
    """Nothing that a model can write takes more than 2 s for a million characters.

    Where they come one by one it is 3 s, as most of that goes into handing them on. That is on an
    idle machine; on a busy one, a known piece of work tells how much slower it is.

    Args:
        num_chars: of each text.
        heads: beginnings of answers that lead where markers alone do not.
    """
    markers = [*call_markers(tools), *thinking_markers(reasoning)]
    nested = "".join(call_markers(tools)[:1]) + '{"name": "f", "arguments": {"a": '
    begun = [*markers, *(marker[:-1] for marker in markers), " ", "\n<", "[[", '{"', "a"]
    units_behind = dict.fromkeys(["", *heads], begun)
    units_behind |= {head: ["[", '"', "1,", '{"a":', "\\\\"] for head in (nested, nested + '"')}
    sizes = ((1, num_chars // 5, 3), (8, num_chars, 2), (num_chars, num_chars, 2))
    for head, units in units_behind.items():
        for unit in units:
            text = (head + unit * num_chars)[:num_chars]
            for size, length, most_s in sizes:
                pieces = [text[at : at + size] for at in range(0, length, size)]
                tries = (_read_s(pieces, tools, reasoning) / _slowness() for _ in range(_NUM_TRIES))
                expect(
                    any(s < most_s * length / 1_000_000 + _START_S for s in tries),
                    f"{length} characters, {size} at a time, take too long: {head!r} and many of "
                    f"{unit!r}. Look at each character once: do not search again what was searched",
                )


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
