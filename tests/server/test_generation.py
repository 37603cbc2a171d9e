"""From ids to text: the same result for every way in which an answer can be cut."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from llmplug.server.admission import Admission
from llmplug.server.deltas import ChoiceDelta
from llmplug.server.generation import Generation
from llmplug.server.metrics import Metrics
from llmplug.types import FinishReason, GenerateRequest, SamplingParams, SequenceDelta

from .fake_engine import TOKENIZER, FakeEngine, ids_of, logprob_of


def run(
    pieces: Sequence[Sequence[int]], sampling: SamplingParams, stop_token_id: int | None = None
) -> tuple[list[ChoiceDelta], Generation]:
    """Generate from an engine that says `pieces`."""

    async def script(request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        for number, ids in enumerate(pieces):
            is_last = number == len(pieces) - 1
            yield SequenceDelta(
                request_id=request.request_id,
                token_ids=list(ids),
                logprobs=None
                if sampling.logprobs is None
                else [logprob_of(i, sampling.logprobs) for i in ids],
                finish_reason=FinishReason.STOP if is_last else None,
                stop_token_id=stop_token_id if is_last else None,
            )

    async def collect() -> list[ChoiceDelta]:
        return [delta async for delta in generation.deltas()]

    admission = Admission(1)
    generation = Generation(
        FakeEngine(script),
        TOKENIZER,
        [GenerateRequest(request_id="a", prompt_ids=[1], sampling=sampling)],
        ticket=admission.enter(1),
        metrics=Metrics(list).for_model("toy"),
    )
    deltas = asyncio.run(collect())
    assert admission.num_waiting == 0
    return deltas, generation


def cut(ids: list[int], places: set[int]) -> list[list[int]]:
    edges = [0, *sorted(place for place in places if 0 < place < len(ids)), len(ids)]
    return [ids[start:end] for start, end in itertools.pairwise(edges)]


TEXTS = st.text(st.sampled_from("abé✓😀 "), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(
    text=TEXTS,
    stop=st.lists(st.text(st.sampled_from("abé "), min_size=1, max_size=3), max_size=2),
    places=st.sets(st.integers(0, 60), max_size=10),
    keeps_stop=st.booleans(),
    has_logprobs=st.booleans(),
)
def test_cuts_do_not_matter(
    text: str, stop: list[str], places: set[int], keeps_stop: bool, has_logprobs: bool
) -> None:
    sampling = SamplingParams(
        stop=tuple(stop),
        include_stop_str_in_output=keeps_stop,
        logprobs=0 if has_logprobs else None,
    )
    deltas, generation = run(cut(ids_of(text), places), sampling)
    assert "".join(delta.text for delta in deltas) == expected_text(text, stop, keeps_stop)
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop"]
    assert deltas[-1].finish_reason == "stop"
    assert generation.usage.completion_tokens <= len(ids_of(text))
    if has_logprobs:
        shown = "".join(delta.text for delta in deltas)
        tokens = [token for delta in deltas for token in delta.tokens]
        raw = b"".join(TOKENIZER.token_bytes(token.token_id) for token in tokens)
        assert raw.decode() == shown
        # Each token stands where its character begins.
        assert [token.offset for token in tokens] == [
            place for place, char in enumerate(shown) for _ in char.encode()
        ]


def expected_text(text: str, stop: list[str], keeps_stop: bool) -> str:
    """The text up to the stop string that is complete first; the longer one of two."""
    for end in range(1, len(text) + 1):
        matches = [each for each in stop if text[:end].endswith(each)]
        if matches:
            return text[: end if keeps_stop else end - max(map(len, matches))]
    return text


def test_broken_character_at_the_end_is_replaced() -> None:
    ids = ids_of("a✓")[:-1]
    deltas, _ = run([[each] for each in ids], SamplingParams(logprobs=0))
    assert "".join(delta.text for delta in deltas) == "a\ufffd"
    assert sum(len(delta.tokens) for delta in deltas) == 3


def test_stop_token_is_counted_and_not_shown() -> None:
    newline = ids_of("\n")[0]
    for keeps_stop, shown in ((False, "ab"), (True, "ab\n")):
        sampling = SamplingParams(
            stop_token_ids=(newline,), include_stop_str_in_output=keeps_stop, logprobs=0
        )
        deltas, generation = run([ids_of("ab"), [newline]], sampling, stop_token_id=newline)
        assert "".join(delta.text for delta in deltas) == shown
        assert sum(len(delta.tokens) for delta in deltas) == len(shown)
        assert generation.usage.completion_tokens == 3


def test_special_tokens_are_shown_if_asked() -> None:
    end = TOKENIZER.eos_token_id
    assert end is not None
    for skips, shown in ((True, "ab"), (False, "a<|end|>b")):
        sampling = SamplingParams(skip_special_tokens=skips)
        deltas, _ = run([[*ids_of("a"), end], ids_of("b")], sampling)
        assert "".join(delta.text for delta in deltas) == shown
