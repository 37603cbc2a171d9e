"""Prompts that ask for what stands between two texts: each kind of vocabulary in its own order."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from llmplug.chat.fill_middle import STYLES, MiddleStyle, encode_gap, find_ends, find_style
from llmplug.chat.tokenizer import Tokenizer
from llmplug.specs import TokenizerFiles

BOS = "<s>"
# What the families' own code writes for the prefix "ab" and the suffix "cd".
WRITTEN = {
    "<|fim_prefix|>": "<|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>",
    "<fim_prefix>": "<fim_prefix>ab<fim_suffix>cd<fim_middle>",
    "<fim-prefix>": "<fim-prefix>ab<fim-suffix>cd<fim-middle>",
    "▁<PRE>": "▁<PRE>ab▁<SUF>cd▁<MID>",
    "<｜fim▁begin｜>": "<｜fim▁begin｜>ab<｜fim▁hole｜>cd<｜fim▁end｜>",
    "[PREFIX]": "[SUFFIX]cd[PREFIX]ab",
}
BY_NAME = {style.before_prefix: style for style in STYLES}


def markers_of(style: MiddleStyle) -> list[str]:
    named = (style.before_prefix, style.before_suffix, style.before_middle, *style.ends)
    return [text for text in named if text]


def make_bytes(*special: str) -> Tokenizer:
    """One byte, one token; a bos token before a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = tokenizers.Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[])
    )
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([BOS, *special])
    return Tokenizer(TokenizerFiles(json=library.to_str(), bos_token=BOS, add_bos=True))


def make_words(*special: str) -> Tokenizer:
    """A vocabulary whose texts begin with a space, written as one that stands for it."""
    pieces = ["<unk>", "▁", *"abcd", "▁a", "▁c", "☺"]
    library = tokenizers.Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[("▁", "a"), ("▁", "c")],
            unk_token="<unk>",
        )
    )
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    library.add_special_tokens([BOS, *special])
    return Tokenizer(TokenizerFiles(json=library.to_str(), bos_token=BOS, add_bos=True))


def spell(tokenizer: Tokenizer, ids: list[int]) -> list[str | None]:
    return [tokenizer.library.id_to_token(i) for i in ids]


@pytest.mark.parametrize("name", WRITTEN)
def test_order_of_each_kind(name: str) -> None:
    style = BY_NAME[name]
    tokenizer = make_bytes(*markers_of(style))
    assert find_style(tokenizer) == style
    ids = encode_gap(tokenizer, style, "ab", "cd")
    assert ids == tokenizer.encode(WRITTEN[name])
    assert "".join(map(str, spell(tokenizer, ids))) == BOS + WRITTEN[name]
    bare = encode_gap(tokenizer, style, "ab", "cd", add_special_tokens=False)
    assert [tokenizer.bos_token_id, *bare] == ids


def test_every_kind_is_held_here() -> None:
    assert BY_NAME.keys() == WRITTEN.keys()


@pytest.mark.parametrize("name", WRITTEN)
def test_a_vocabulary_that_lacks_a_marker_fills_nothing(name: str) -> None:
    style = BY_NAME[name]
    needed = [
        each for each in (style.before_prefix, style.before_suffix, style.before_middle) if each
    ]
    for missing in needed:
        tokenizer = make_bytes(*(each for each in needed if each != missing))
        assert find_style(tokenizer) is None


@pytest.mark.parametrize("name", WRITTEN)
def test_ends_are_those_of_the_vocabulary(name: str) -> None:
    style = BY_NAME[name]
    whole = make_bytes(*markers_of(style))
    assert spell(whole, list(find_ends(whole, style))) == list(style.ends)
    few = make_bytes(style.before_prefix, *style.ends[:1])
    assert spell(few, list(find_ends(few, style))) == list(style.ends[:1])


def test_what_texts_spell_stays_text() -> None:
    style = BY_NAME["<fim_prefix>"]
    tokenizer = make_bytes(*markers_of(style))
    ids = encode_gap(tokenizer, style, "a<fim_middle>", "<s>b")
    assert sum(i in tokenizer.control_ids for i in ids) == 4  # bos and three markers
    text = tokenizer.decode(ids, skip_special_tokens=False)
    assert text == "<s><fim_prefix>a<fim_middle><fim_suffix><s>b<fim_middle>"


def test_a_suffix_gets_no_space_of_its_own() -> None:
    """A prefix is a text and begins as one; a suffix goes on where the gap ends."""
    style = BY_NAME["▁<PRE>"]
    tokenizer = make_words(*markers_of(style))
    for suffix, pieces in (("cd", ["c", "d"]), (" cd", ["▁c", "d"]), ("", [])):
        ids = encode_gap(tokenizer, style, "ab", suffix)
        expected = [BOS, "▁<PRE>", "▁a", "b", "▁<SUF>", *pieces, "▁<MID>"]
        assert spell(tokenizer, ids) == expected
