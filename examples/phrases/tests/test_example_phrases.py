from collections.abc import Iterator, Sequence

import pytest
import torch
from example_phrases import llmplug_samplers
from example_phrases.phrases import follow, list_beginnings
from hypothesis import given
from hypothesis import strategies as st
from llmplug import SamplerRow, SamplerSpec
from llmplug.grammar import Vocabulary
from llmplug.testing import check_sampler
from pydantic import ValidationError

# Pieces of "say so" of every length, and tokens that overrun it, cut a character, or stand for
# none. Few: the rows of `check_sampler` use the first two dozen.
TOKENS = [
    *[b"s", b"a", b"y", b" ", b"o", b"sa", b"ay ", b"say", b"say s", b"y so", b"so", b"o far"],
    *[b" so", b"ss", b"say so what", "é".encode(), "é".encode()[:1], "é".encode()[1:], b"", b"x"],
]
VOCAB_SIZE = 23  # wider than the tokenizer, as many a checkpoint's is
VOCABULARY = Vocabulary(
    token_bytes=TOKENS + [b""] * (VOCAB_SIZE - len(TOKENS)),
    control_ids={},
    end_ids=frozenset(),
    encode=lambda text: [],
)


def spec() -> SamplerSpec:
    (only,) = llmplug_samplers()
    return only


def steer(logits_V: torch.Tensor, row: SamplerRow) -> torch.Tensor:
    """The formula, by trying every token at every place that the text could be at."""
    said = b"".join(VOCABULARY.token_bytes[i] for i in row.output_ids)
    expected_V = logits_V.clone()
    for phrase, weight in row.params.example_phrases.items():
        whole = phrase.encode()
        for token_id, text in enumerate(VOCABULARY.token_bytes):
            expected_V[token_id] += weight * best_share(whole, said, text)
    return expected_V


def best_share(phrase: bytes, said: bytes, text: bytes) -> float:
    places = [n for n in range(len(phrase)) if said.endswith(phrase[:n])]
    rests = [(n, phrase[n:]) for n in places]
    lengths = [n + len(text) for n, rest in rests if text and rest.startswith(text)]
    lengths += [len(phrase) for _, rest in rests if text.startswith(rest)]
    return max(lengths, default=0) / len(phrase)


def test_sampler() -> None:
    settings = [
        {"example_phrases": {"say so": 6.0}},
        {"example_phrases": {"so": -2.5, "é": 3.0}},
        {"example_phrases": {"ssss": 1.0, "a say": -900.0, "x": 0.0}},
    ]
    check_sampler(spec(), settings, formula=steer, vocab_size=VOCAB_SIZE, vocabulary=VOCABULARY)


def steps(rows: Sequence[SamplerRow]) -> Iterator[torch.Tensor]:
    """Steer rows step by step, each told what it kept; every row then takes its best token."""
    sampler = spec().make(VOCAB_SIZE, torch.device("cpu"), None, lambda: VOCABULARY)
    while True:
        logits_RV = torch.zeros(len(rows), VOCAB_SIZE)
        sampler.apply(logits_RV, rows)
        yield logits_RV
        for row, logits_V in zip(rows, logits_RV, strict=True):
            row.state, row.position = row.next_state, row.position + 1
            row.output_ids = [*row.output_ids, int(logits_V.argmax())]


def test_a_phrase_is_followed_from_token_to_token() -> None:
    phrases = [{"say so": 3.0}, {"ssss": 1.0, "o": 0.5}, {"say": -1.0}]
    params = [spec().params(example_phrases=each) for each in phrases]
    rows = [SamplerRow(each, (1, 2), [], seed=0, position=2) for each in params]
    for _, logits_RV in zip(range(9), steps(rows), strict=False):
        for row, logits_V in zip(rows, logits_RV, strict=True):
            torch.testing.assert_close(logits_V, steer(torch.zeros(VOCAB_SIZE), row))
    said = b"".join(TOKENS[i] for i in rows[0].output_ids)
    assert b"say so" in said


@given(
    phrase=st.text("ab", min_size=1, max_size=7).map(str.encode),
    pieces=st.lists(st.text("ab", max_size=4).map(str.encode), max_size=6),
)
def test_where_a_text_stands_does_not_depend_on_its_pieces(
    phrase: bytes, pieces: list[bytes]
) -> None:
    matched = 0
    for piece in pieces:
        matched = follow(phrase, matched, piece)
    said = b"".join(pieces)
    ends = [n for n in range(len(phrase) + 1) if said.endswith(phrase[:n])]
    assert matched == ends[-1]
    assert list_beginnings(phrase, matched) == [n for n in reversed(ends) if n < len(phrase)]


@pytest.mark.parametrize(
    "phrases",
    [{"": 1.0}, {"x" * 201: 1.0}, {"x": 1001.0}, {"x": "1"}, {str(i): 1.0 for i in range(17)}],
)
def test_what_is_refused(phrases: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        spec().params(example_phrases=phrases)
