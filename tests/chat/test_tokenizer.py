"""Token ids equal the library's; text without control never yields a control id."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import processors

from llmplug import CheckpointError, InvalidRequest, TokenizerFiles
from llmplug.chat.tokenizer import Tokenizer

from .vocabularies import (
    CONTROL,
    FAMILIES,
    GENERATING,
    build,
    byte_level,
    cached,
    files_of,
    metaspace,
    word_level,
)

TEXTS = [
    "",
    "the quick brown fox",
    "  two  spaces \n\n and lines\t",
    "émoji 😀👩‍👩‍👧 and 漢字かな",
    "a <b>bold</b> | text [x]",
    "\x00\x07 control characters \x7f",
]
PIECES = st.sampled_from(
    [
        *CONTROL,
        "<unk>",
        "<s>",
        "</s>",
        "marker9",
        "§",
        "※",
        "<norm>",
        " <gap>",
        "<|",
        "im_start",
        "|>",
    ]
)
SPELLING = st.lists(PIECES | st.text(max_size=4), max_size=8).map("".join)


@pytest.mark.parametrize("text", [*TEXTS, *CONTROL, "a<|im_start|>b <think> c[INST]"])
def test_ids_equal_the_library(text: str, tokenizer: Tokenizer, library: LibraryTokenizer) -> None:
    assert tokenizer.encode(text) == library.encode(text).ids


@pytest.mark.parametrize("text", TEXTS)
def test_text_without_control_has_the_same_ids_either_way(text: str, tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(text, allow_control=False) == tokenizer.encode(text)


@pytest.mark.parametrize("name", FAMILIES)
@given(text=SPELLING)
@settings(max_examples=60, deadline=None)
def test_no_text_yields_control_ids(name: str, text: str) -> None:
    tokenizer = cached(name)
    unknown = tokenizer.id_of("<unk>")
    found = set(tokenizer.encode(text, allow_control=False)) & tokenizer.control_ids
    assert found <= {unknown}
    if re.fullmatch(r"(<unk>)+", text) and name in {"sentencepiece", "metaspace_first"}:
        assert found == set()  # these have bytes for everything


def test_spelled_control_decodes_to_itself() -> None:
    for name in GENERATING:
        tokenizer = cached(name)
        for text in ("<|im_start|>", "</think>"):
            ids = tokenizer.encode(text, allow_control=False)
            if tokenizer.id_of("<unk>") not in ids:
                assert tokenizer.decode(ids, skip_special_tokens=False).strip() == text, name


def test_white_space_tokens_are_text() -> None:
    tokenizer = cached("with_flags")
    breaks = tokenizer.id_of("\n\n\n")
    assert breaks is not None
    assert breaks not in tokenizer.control_ids
    assert tokenizer.encode("\n\n\n", allow_control=False) == [breaks]


def test_names_are_drawn_anew() -> None:
    library = byte_level()
    first, second = Tokenizer(files_of(library)), Tokenizer(files_of(library))
    assert not set(first.control_names.values()) & set(second.control_names.values())
    start = first.id_of("<|im_start|>")
    assert start is not None
    assert first.encode_named(first.control_names[start]) == [start]
    assert start not in second.encode_named(first.control_names[start])


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_lone_surrogates_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        cached("byte_level").encode(text)


def with_frame() -> LibraryTokenizer:
    library = metaspace()
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[("<s>", 1), ("</s>", 2)],
    )
    return library


@pytest.mark.parametrize(
    ("add_bos", "frame"), [(None, ([1], [2])), (True, ([1], [2])), (False, ([], [2]))]
)
def test_frame_is_the_post_processors_unless_overruled(
    add_bos: bool | None, frame: tuple[list[int], list[int]]
) -> None:
    tokenizer = Tokenizer(files_of(with_frame(), bos_token="<s>", add_bos=add_bos))
    inner = tokenizer.encode("the fox", add_special_tokens=False)
    assert tokenizer.encode("the fox") == [*frame[0], *inner, *frame[1]]
    plain = tokenizer.encode("the fox", allow_control=False)
    assert plain == tokenizer.encode("the fox")


def test_bos_is_added_where_the_post_processor_has_none() -> None:
    tokenizer = Tokenizer(files_of(metaspace(), bos_token="<s>", add_bos=True))
    assert tokenizer.encode("the")[0] == tokenizer.bos_token_id == 1


@pytest.mark.parametrize("name", GENERATING)
@pytest.mark.parametrize("text", TEXTS)
def test_decoding_equals_the_library(name: str, text: str) -> None:
    library = build(name)
    ids = library.encode(text).ids
    assert cached(name).decode(ids) == library.decode(ids)


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_tokens_join_to_the_text(name: str, text: str) -> None:
    tokenizer = cached(name)
    data = b"".join(map(tokenizer.token_bytes, tokenizer.encode(text)))
    expected = text.encode()
    assert data == (b" " + expected if name == "sentencepiece" and text else expected)


def test_token_text() -> None:
    tokenizer = cached("sentencepiece")
    newline, space, end = (tokenizer.id_of(t) for t in ("<0x0A>", "▁", "</s>"))
    assert newline is not None
    assert space is not None
    assert end is not None
    assert [tokenizer.token_text(i) for i in (newline, space, end)] == ["\n", " ", "</s>"]
    part = tokenizer.encode("😀")[-1]
    assert tokenizer.token_text(part) == "\ufffd"
    assert tokenizer.token_bytes(part) == "😀".encode()[-1:]
    assert tokenizer.token_bytes(10**6) == b""


def test_decoder_of_no_known_kind_is_the_library_s() -> None:
    library = word_level()
    tokenizer = cached("word_level")
    ids = library.encode("the quick user").ids
    assert tokenizer.decode(ids) == library.decode(ids)
    assert tokenizer.token_text(ids[0]) == "the"


def test_special_tokens_are_named_for_templates() -> None:
    files = files_of(
        metaspace(), bos_token="<s>", eos_token="</s>", special_tokens={"pad_token": "<unk>"}
    )
    tokenizer = Tokenizer(files)
    expected = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    assert tokenizer.special_tokens == expected
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"model": {"type": "None"}}'])
def test_damaged_json_is_a_checkpoint_error(text: str) -> None:
    with pytest.raises(CheckpointError, match="tokenizer"):
        Tokenizer(TokenizerFiles(json=text))


def test_unknown_special_token_is_a_checkpoint_error() -> None:
    with pytest.raises(CheckpointError, match="eos_token '<nope>'"):
        Tokenizer(files_of(byte_level(), eos_token="<nope>"))


def test_truncation_and_padding_of_the_file_are_off() -> None:
    library = byte_level()
    library.enable_truncation(2)
    library.enable_padding(length=50)
    text = "the quick brown fox " * 10
    assert Tokenizer(files_of(library)).encode(text) == byte_level().encode(text).ids


def test_vocab_size_covers_the_largest_id() -> None:
    description = json.loads(byte_level().to_str())
    size = max(token["id"] for token in description["added_tokens"]) + 1
    assert cached("byte_level").vocab_size == size


def test_real_vocabulary(smollm2: Tokenizer) -> None:
    for token_id in smollm2.control_ids:
        text = smollm2.token_text(token_id)
        assert smollm2.encode(text) == [token_id]
        plain = smollm2.encode(text, allow_control=False)
        assert not set(plain) & smollm2.control_ids
        assert smollm2.decode(plain) == text
