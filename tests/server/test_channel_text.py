"""However the engine cuts an answer, the deltas put together are the same."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmplug.chat.stop_strings import StopStrings
from llmplug.dialect import AnswerContext, Tool
from llmplug.server.channel_text import Reading
from llmplug.server.choice_text import ChoiceText
from llmplug.server.schema.reply import JoinedChoice
from llmplug.types import FinishReason, SamplingParams, SequenceDelta

from .fake_engine import TOKENIZER, ids_of, logprob_of
from .test_tools import DIALECT, write_call

PARTS = [
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_", "{", "}", '{"name": "time"',
    ', "arguments": ', write_call("time", city="é✓"), write_call("x", a=[1, {"b": '"'}]), "STOP",
    "ST", " ", "\n", "a", "✓",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)


def read(
    pieces: list[list[int]], sampling: SamplingParams, finish: FinishReason, **reading: Any
) -> tuple[JoinedChoice, int, int]:
    """Feed an answer piece by piece; the choice, its tokens and those of its thinking."""
    context = AnswerContext(tools=(Tool("time"), Tool("x")))
    choice = ChoiceText(
        0,
        TOKENIZER,
        sampling,
        continues_text=False,
        reading=Reading(dialect=DIALECT, context=context, **reading),
        stops=StopStrings(sampling.stop),
    )
    joined = JoinedChoice(0)
    for number, ids in enumerate(pieces):
        if choice.is_finished:
            break
        delta = SequenceDelta(
            request_id="a",
            token_ids=ids,
            logprobs=None if sampling.logprobs is None else [logprob_of(i, 0) for i in ids],
            finish_reason=finish if number == len(pieces) - 1 else None,
        )
        for news in choice.feed(delta):
            assert joined.finish_reason is None, "nothing comes after a finish reason"
            joined.add(news)
    assert joined.finish_reason is not None
    for call in joined.calls.values():
        call.id = ""
    return joined, choice.num_tokens, choice.num_reasoning


@settings(max_examples=300, deadline=None)
@given(
    text=TEXTS,
    places=st.sets(st.integers(1, 200), max_size=12),
    stops=st.sampled_from([(), ("STOP",), ("</think>",)]),
    finish=st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]),
    is_single=st.booleans(),
    has_logprobs=st.booleans(),
)
def test_cuts_do_not_matter(
    text: str,
    places: set[int],
    stops: tuple[str, ...],
    finish: FinishReason,
    is_single: bool,
    has_logprobs: bool,
) -> None:
    ids = ids_of(text)
    edges = [0, *sorted(place for place in places if place < len(ids)), len(ids)]
    pieces = [ids[start:end] for start, end in itertools.pairwise(edges)]
    sampling = SamplingParams(stop=stops, logprobs=0 if has_logprobs else None)
    found, whole, single = (
        read(each, sampling, finish, is_single=is_single)
        for each in (pieces, [ids], [*([i] for i in ids), []])
    )
    for other in (whole, single):
        assert (found[0].text, found[0].calls) == (other[0].text, other[0].calls)
        assert "".join(found[0].reasonings) == "".join(other[0].reasonings)
        assert found[0].finish_reason == other[0].finish_reason
        assert found[0].tokens == other[0].tokens
        assert found[1:] == other[1:]
    joined, num_tokens, num_reasoning = found
    assert len("".join(joined.reasonings).encode()) <= num_reasoning <= num_tokens
    if is_single:
        assert len(joined.calls) <= 1
    if not stops and not is_single:
        assert num_tokens == len(ids)
    spelled = b"".join(TOKENIZER.token_bytes(token.token_id) for token in joined.tokens).decode()
    assert not has_logprobs or spelled == joined.text or '{"name"' in text


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_nothing_is_read_as_a_call_without_tools(text: str) -> None:
    choice = ChoiceText(
        0,
        TOKENIZER,
        SamplingParams(),
        continues_text=False,
        reading=Reading(dialect=DIALECT, context=AnswerContext()),
    )
    joined = JoinedChoice(0)
    delta = SequenceDelta(request_id="a", token_ids=ids_of(text), finish_reason=FinishReason.STOP)
    for news in choice.feed(delta):
        joined.add(news)
    assert joined.calls == {}
    assert joined.finish_reason == "stop"
    for part in ("name", "arguments", "city"):
        everything = joined.text + "".join(joined.reasonings)
        assert everything.count(part) == text.count(part)
