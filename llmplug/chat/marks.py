"""Characters that mark users' text while it goes through a chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmplug.errors import InvalidRequest

# Valid characters that are never assigned and not meant for interchange.
_NONCHARACTERS = [
    *(chr(code) for code in range(0xFDD0, 0xFDF0)),
    *(chr(plane << 16 | low) for plane in range(1, 17) for low in (0xFFFE, 0xFFFF)),
]
_NONCHARACTER_SET = frozenset(_NONCHARACTERS)  # a search by pattern takes some ten times longer
_ANY = re.compile("[" + "".join(_NONCHARACTERS) + "]")
# As JSON in ASCII and Python's repr write them, which templates make of lists and maps.
_SPELLED = {json.dumps(text)[1:-1]: text for text in _NONCHARACTERS}
_SPELLED |= {repr(text)[1:-1]: text for text in _NONCHARACTERS}
_ANY_SPELLED = re.compile("|".join(map(re.escape, _SPELLED)))
_MAX_DEPTH = 100  # of lists and maps within each other


@dataclass(frozen=True, slots=True)
class Marks:
    """Four characters that no string of one conversation holds, nor spells in ASCII."""

    cut: str  # no control token goes over it
    open: str  # what follows, up to `close`, is text
    close: str
    end: str  # of the final message, where it is to be continued

    @classmethod
    def draw(cls, *values: Any) -> Marks:
        """Find four characters that are free in `values`, of JSON types.

        Raises:
            InvalidRequest: nearly all are in use, or a value is nested too deeply.
        """
        used: set[str] = set()
        for text in _strings(values):
            if not text.isascii():
                used.update(_NONCHARACTER_SET.intersection(text))
            if "\\" in text:
                used.update(_SPELLED[found] for found in _ANY_SPELLED.findall(text))
        free = [character for character in _NONCHARACTERS if character not in used]
        if len(free) < 4:
            raise InvalidRequest(
                "the messages hold nearly every noncharacter of Unicode (U+FDD0 and the like), "
                "which are not meant for interchange; leave them out",
                param="messages",
            )
        return cls(*free[:4])

    def restore_in(self, text: str) -> str:
        """Turn marks that were spelled in ASCII on the way back into themselves."""
        if "\\" not in text:
            return text
        marks = {self.cut, self.open, self.close, self.end}

        def restore(found: re.Match[str]) -> str:
            mark = _SPELLED[found[0]]
            return mark if mark in marks else found[0]

        return _ANY_SPELLED.sub(restore, text)

    def remove_from(self, text: str) -> str:
        """Take all marks out."""
        for mark in (self.cut, self.open, self.close, self.end):
            text = text.replace(mark, "")
        return text


def without_marks(text: str) -> str:
    """Return a text without any character that may be a mark."""
    return _ANY.sub("", text)


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise InvalidRequest(f"the messages are nested over {_MAX_DEPTH} deep", param="messages")
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key, depth + 1)
            yield from _strings(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item, depth + 1)
