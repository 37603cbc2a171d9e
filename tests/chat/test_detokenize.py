"""Text in pieces equals text at once, for any ids and any split."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmplug.chat.detokenize import Detokenizer
from llmplug.chat.tokenizer import Tokenizer

from .vocabularies import FAMILIES, GENERATING, build, cached

TOKENIZERS = {name: cached(name) for name in FAMILIES}
SEEDS = st.integers(0, 2**32)
TEXTS = [
    "Hello, wörld! 😀👩‍👩‍👧‍👦 漢字 かな العربية",
    " leading and trailing ",
    "\n\n\ttabs\r\n",
    "e\u0301 combining, \u200d joiner, \ufeff mark",
]


def run(detokenizer: Detokenizer, ids: list[int], rng: random.Random) -> list[str]:
    pieces = []
    position = 0
    while position < len(ids):
        size = rng.randint(0, 5)
        pieces.append(detokenizer.feed(ids[position : position + size]))
        position += size
    return [*pieces, detokenizer.finish()]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("skip_special_tokens", [True, False])
@given(seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_random_ids(name: str, skip_special_tokens: bool, seed: int) -> None:
    tokenizer = TOKENIZERS[name]
    rng = random.Random(seed)
    ids = [rng.randrange(tokenizer.vocab_size + 3) for _ in range(rng.randint(0, 30))]
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
    expected = tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
    assert "".join(run(detokenizer, ids, rng)) == expected


@pytest.mark.parametrize("name", GENERATING)
@pytest.mark.parametrize("text", TEXTS)
def test_whole_characters_only(name: str, text: str) -> None:
    library, tokenizer = build(name), TOKENIZERS[name]
    ids = library.encode(text).ids
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.feed([id_]) for id_ in ids]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + detokenizer.finish() == library.decode(ids)


def test_text_comes_as_soon_as_it_is_certain() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    detokenizer = Detokenizer(tokenizer)
    smile = [tokenizer.encode(letter)[0] for letter in ("a",)] + tokenizer.encode("😀")
    assert [detokenizer.feed([id_]) for id_ in smile] == ["a", "", "", "", "😀"]


def test_half_a_character_at_the_end() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.feed(tokenizer.encode("😀")[:2]) == ""
    assert detokenizer.finish() == "\ufffd"


@pytest.mark.parametrize("name", ["sentencepiece", "metaspace_first", "unigram"])
def test_leading_space(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode("the fox")
    start, continuation = Detokenizer(tokenizer), Detokenizer(tokenizer, keep_leading_space=True)
    assert start.feed(ids) + start.finish() == "the fox"
    assert continuation.feed(ids) + continuation.finish() == " the fox"


def test_leading_space_after_a_special_token() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    bos = tokenizer.id_of("<s>")
    assert bos is not None
    ids = [bos, *tokenizer.encode("the")]
    detokenizer = Detokenizer(tokenizer)
    assert [detokenizer.feed([id_]) for id_ in ids][:2] == ["", "the"]


def test_real_vocabulary(smollm2: Tokenizer) -> None:
    rng = random.Random(7)
    for _ in range(50):
        ids = [rng.randrange(smollm2.vocab_size) for _ in range(200)]
        detokenizer = Detokenizer(smollm2)
        text = "".join(run(detokenizer, ids, rng))
        assert text == smollm2.decode(ids) == smollm2.library.decode(ids)
