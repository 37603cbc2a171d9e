"""What an answer may look like: a small tree that every grammar backend understands.

A tree is made by the server (of a schema, a choice, the tools of a request), travels to the engine
as bytes, and is compiled there by a backend. Nothing here imports torch.

Where a text spells a control token of the vocabulary, such as `<tool_call>`, it stands for that
token; everywhere else control tokens are forbidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec


class Text(msgspec.Struct, frozen=True, tag="text"):
    """Exactly this."""

    text: str


class Regex(msgspec.Struct, frozen=True, tag="regex"):
    """Text that matches a regular expression, whole."""

    pattern: str


class Json(msgspec.Struct, frozen=True, tag="json"):
    """JSON text that fits a schema; `{}` fits any JSON value."""

    schema: Any  # draft 2020-12: an object or a boolean


class Lark(msgspec.Struct, frozen=True, tag="lark"):
    """A context-free grammar in Lark's notation, which begins at `start`."""

    source: str


class Seq(msgspec.Struct, frozen=True, tag="seq"):
    """One after the other."""

    items: list[Node]


class OneOf(msgspec.Struct, frozen=True, tag="one_of"):
    """One of these."""

    items: list[Node]


class Repeat(msgspec.Struct, frozen=True, tag="repeat"):
    """An item several times."""

    item: Node
    least: int = 0
    most: int | None = None  # None: without end


class Until(msgspec.Struct, frozen=True, tag="until"):
    """Any text up to the first place where a marker stands, and the marker."""

    marker: str


class Anything(msgspec.Struct, frozen=True, tag="anything"):
    """Any text to the end of the answer, but none that holds one of these."""

    without: list[str] = []


Node = Text | Regex | Json | Lark | Seq | OneOf | Repeat | Until | Anything

_decoder = msgspec.json.Decoder(Node)


def encode_grammar(node: Node) -> bytes:
    """Write a tree as bytes; the keys of a schema stay in order, as answers follow it."""
    return msgspec.json.encode(node)


def decode_grammar(data: bytes) -> Node:
    """Read what `encode_grammar` wrote.

    Raises:
        ValueError: it is no tree.
    """
    node: Node = _decoder.decode(data)
    return node


# --- backends -----------------------------------------------------------------------------------
MASK_WORD_BITS = 32  # ids to one int32 of a mask


def num_mask_words(vocab_size: int) -> int:
    """Return how many int32 words a mask of `vocab_size` ids has."""
    return -(-vocab_size // MASK_WORD_BITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What a backend must know of a tokenizer.

    Attributes:
        token_bytes: the bytes that each id stands for; b"" for ids that stand for none.
        control_ids: control tokens by their text, such as `<tool_call>`.
        end_ids: ids that end an answer; allowed exactly where a grammar may end.
        encode: text -> ids, control tokens never among them.
    """

    token_bytes: Sequence[bytes]
    control_ids: Mapping[str, int]
    end_ids: frozenset[int]
    encode: Callable[[str], list[int]]

    def split(self, text: str) -> list[str | int]:
        """Cut a text at the control tokens that it spells, the longest first: texts and ids."""
        pieces: list[str | int] = [text] if text else []
        for spelled in sorted(self.control_ids, key=len, reverse=True):
            if spelled and spelled in text:
                pieces = [part for piece in pieces for part in self._cut(piece, spelled)]
        return pieces

    def _cut(self, piece: str | int, spelled: str) -> list[str | int]:
        if isinstance(piece, int):
            return [piece]
        parts: list[str | int] = []
        for i, plain in enumerate(piece.split(spelled)):
            if i:
                parts.append(self.control_ids[spelled])
            if plain:
                parts.append(plain)
        return parts


class GrammarState(Protocol):
    """Where one answer stands in its grammar; belongs to one sequence and one thread at a time."""

    def fill_mask(self, mask: memoryview) -> None:
        """Write which ids may come next: bit `id % 32` of the int32 word `id // 32`.

        Raises:
            GrammarError: it took more work than its budget; the answer ends with this error.
        """

    def accept(self, token_id: int) -> bool:
        """Go on by one token; False, and nothing changed, if the grammar does not allow it."""

    @property
    def is_done(self) -> bool:
        """Whether nothing but an end may follow."""


class CompiledGrammar(Protocol):
    """A grammar ready for use; shared by every answer that asks for it."""

    @property
    def num_bytes(self) -> int:
        """About how much memory it holds."""

    def start(self) -> GrammarState:
        """Begin an answer; costs microseconds."""


class GrammarBackend(Protocol):
    """Compiles grammars for one vocabulary; safe to use from several threads."""

    def compile(self, node: Node) -> CompiledGrammar:
        """Compile a tree.

        Raises:
            GrammarError: it is malformed, too large, or uses what this backend does not know;
                the message names it.
        """
