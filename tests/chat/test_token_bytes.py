"""The byte-level alphabet is the library's; unknown decoders are left to it."""

from __future__ import annotations

import json

import pytest
from tokenizers import decoders, pre_tokenizers

from llmplug.chat.token_bytes import byte_level_alphabet, make_token_bytes


def test_alphabet_is_the_librarys() -> None:
    alphabet = byte_level_alphabet()
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(alphabet.values()) == list(range(256))
    for letter, byte in alphabet.items():
        if byte < 0x80:
            assert decoders.ByteLevel().decode([letter]) == chr(byte)


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "Sequence", "decoders": [{"type": "CTC"}]},
        {"type": "Strip", "content": " ", "start": 0, "stop": 1},
        {"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""},
    ],
)
def test_other_decoders_have_no_table(decoder: dict[str, object] | None) -> None:
    assert make_token_bytes(json.loads(json.dumps(decoder)), {0: "a"}) is None


def test_byte_tokens_need_a_byte_fallback() -> None:
    fuse = {"type": "Fuse"}
    without = make_token_bytes(fuse, {0: "<0x41>"})
    with_fallback = make_token_bytes(
        {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, fuse]}, {0: "<0x41>"}
    )
    assert without is not None
    assert with_fallback is not None
    assert (without.by_id[0], with_fallback.by_id[0]) == (b"<0x41>", b"A")
