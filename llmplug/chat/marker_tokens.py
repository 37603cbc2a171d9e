"""Find the tokens that a dialect's markers are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmplug.chat.tokenizer import Tokenizer
    from llmplug.specs import ReasoningParserSpec, ToolParserSpec


def find_marker_ids(
    tokenizer: Tokenizer, *specs: ReasoningParserSpec | ToolParserSpec | None
) -> frozenset[int]:
    """Return the special tokens that a parser of these must see, though no reader of text does.

    What a parser made by hand looks for is not known: it sees them all.
    """
    present = [spec for spec in specs if spec is not None]
    if any(spec.make is not None for spec in present):
        return tokenizer.special_ids
    markers = [text for spec in present for text in find_markers(spec)]
    return frozenset(
        id_
        for id_ in tokenizer.special_ids
        if any(tokenizer.added_tokens[id_].content in text for text in markers)
    )


def find_markers(spec: ReasoningParserSpec | ToolParserSpec) -> list[str]:
    """Return every text of a dialect's tables."""
    return [text for text in _texts_in(spec.syntax) if text]


def _texts_in(table: Any) -> Iterator[str]:
    if isinstance(table, str):
        yield table
    elif isinstance(table, Mapping):
        for key in table:
            yield from _texts_in(key)
    elif isinstance(table, tuple | list):
        for each in table:
            yield from _texts_in(each)
    elif is_dataclass(table):
        for field in fields(table):
            yield from _texts_in(getattr(table, field.name))
