"""The bytes that each token stands for, so that any run of tokens decodes by joining bytes.

Two families of decoders cover the models that generate text: byte-level (a printable letter for
every byte) and SentencePiece-like (`▁` for a space, `<0x0A>` for a byte that has no token).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBytes:
    """Bytes by token id, and what happens to the start of a text.

    Attributes:
        by_id: bytes of every token; ids that are not in the vocabulary have none.
        num_leading_spaces: spaces that are dropped from the start of a text.
        first_by_id: bytes of a token that starts a text, where they differ from `by_id`.
    """

    by_id: Mapping[int, bytes]
    num_leading_spaces: int = 0
    first_by_id: Mapping[int, bytes]


def byte_level_alphabet() -> dict[str, int]:
    """Map each letter of the byte-level alphabet to its byte.

    Printable Latin-1 characters stand for themselves; the other 68 bytes take the code points
    from 256 on, in order.
    Source: https://github.com/openai/gpt-2/blob/master/src/encoder.py, bytes_to_unicode
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return alphabet | {chr(256 + i): byte for i, byte in enumerate(others)}


def make_token_bytes(
    decoder: Mapping[str, Any] | None, vocabulary: Mapping[int, str]
) -> TokenBytes | None:
    """Build the table from the `decoder` part of a tokenizer's JSON.

    Args:
        decoder: the parsed JSON of the decoder, None where there is none.
        vocabulary: token text by id, added tokens included.
    Returns:
        None if the decoder is of neither family.
    """
    if decoder is None:
        return None
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        alphabet = byte_level_alphabet()
        return TokenBytes(
            by_id={id_: _byte_level(text, alphabet) for id_, text in vocabulary.items()},
            first_by_id={},
        )
    if not set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        return None
    return _sentencepiece(steps, vocabulary)


def _byte_level(text: str, alphabet: Mapping[str, int]) -> bytes:
    try:
        return bytes([alphabet[letter] for letter in text])
    except KeyError:  # an added token is written as it is
        return text.encode()


def _sentencepiece(
    steps: Sequence[Mapping[str, Any]], vocabulary: Mapping[int, str]
) -> TokenBytes | None:
    by_id = dict(vocabulary)
    first: dict[int, str] = {}
    has_byte_tokens = False
    num_leading_spaces = 0
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                by_id = {id_: text.replace(old, new) for id_, text in by_id.items()}
            case {"type": "Metaspace", "replacement": str(space), **options}:
                if options.get("prepend_scheme", "always") != "never":
                    first = {i: t.replace(space, "") for i, t in by_id.items() if space in t}
                by_id = {id_: text.replace(space, " ") for id_, text in by_id.items()}
            case {"type": "ByteFallback"}:
                has_byte_tokens = True
            case {"type": "Strip", "content": " ", "start": int(start), "stop": 0}:
                num_leading_spaces = start
            case {"type": "Fuse"}:
                pass
            case _:
                return None
    return TokenBytes(
        by_id={id_: _text_or_byte(text, has_byte_tokens) for id_, text in by_id.items()},
        num_leading_spaces=num_leading_spaces,
        first_by_id={id_: text.encode() for id_, text in first.items()},
    )


def _text_or_byte(text: str, has_byte_tokens: bool) -> bytes:
    if has_byte_tokens and (byte := _BYTE_TOKEN.fullmatch(text)):
        return bytes.fromhex(byte[1])
    return text.encode()
