"""A part of a long text tells what the whole would: that it is too long, and how it begins."""

from __future__ import annotations

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from llmplug.chat.enough import MIN_PART_CHARS, Enough
from llmplug.chat.tokenizer import Tokenizer
from llmplug.errors import InvalidRequest
from llmplug.specs import TokenizerFiles
from tests.tiny import make_tokenizer

WORDS = st.lists(st.sampled_from(["word ", "Łódź\n", "    ", "<|im_end|>", "x", "😀"]), max_size=9)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return Tokenizer(TokenizerFiles(json=(folder / "tokenizer.json").read_text()))


@settings(max_examples=60, deadline=None)
@given(
    words=WORDS,
    times=st.integers(0, 2000),
    num_tokens=st.integers(1, 4000),
    keeps_end=st.booleans(),
    allow_control=st.booleans(),
)
def test_as_much_as_is_wanted_is_as_in_the_whole(
    tokenizer: Tokenizer,
    words: list[str],
    times: int,
    num_tokens: int,
    keeps_end: bool,
    allow_control: bool,
) -> None:
    text = "".join(words) * times
    whole = tokenizer.encode(text, allow_control=allow_control)
    enough = Enough(num_tokens, keeps_end)
    found = tokenizer.encode(text, allow_control=allow_control, enough=enough)
    if len(whole) <= num_tokens:
        assert found == whole
    else:
        assert len(found) > num_tokens
        kept = slice(-num_tokens, None) if keeps_end else slice(num_tokens)
        assert found[kept] == whole[kept]


def test_a_long_text_is_not_encoded_whole(tokenizer: Tokenizer) -> None:
    text = "word " * 400_000
    found = tokenizer.encode(text, enough=Enough(1000))
    assert 2000 < len(found) <= MIN_PART_CHARS
    assert tokenizer.encode_within(text, None, context_length=1000) == found
    assert len(tokenizer.encode_within(text, 10**9, context_length=1000)) == len(found)
    assert tokenizer.encode_within(text, 7, keeps_end=True) == tokenizer.encode(text[-7:])
    first, _ = tokenizer.encode_pair(text, text, None, 1000)
    assert 2000 < len(first) <= 2 * MIN_PART_CHARS


def test_tokens_of_many_characters_are_looked_for_further_on() -> None:
    words = tokenizers.Tokenizer(models.WordLevel({"a" * 50: 0, "?": 1}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = Tokenizer(TokenizerFiles(json=words.to_str()))
    text = ("a" * 50 + " ") * 2000
    assert len(tokenizer.encode(text, enough=Enough(1000))) == 2000
    assert 2 * 100 < len(tokenizer.encode(text, enough=Enough(100))) < 2000


def test_half_a_character_far_behind_is_refused_all_the_same(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="lone surrogate"):
        tokenizer.encode("a" * 100_000 + "\ud800", enough=Enough(1))
