"""How much of a text is encoded that may be far too long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# Of an ordinary text; one of whole words in each token is encoded in several steps.
CHARS_PER_TOKEN = 4
MIN_PART_CHARS = 4096


@dataclass(frozen=True, slots=True)
class Enough:
    """How many tokens of a text are wanted: of one that has more, a part is encoded that has more.

    A token takes some 200 bytes while it is made, and a text of the largest body has millions. What
    a token is depends on what stands near it: a part with more than twice as many as are wanted
    tells that the whole has more than that, and begins as it does (ends, with `keeps_end`).

    Attributes:
        num_tokens: None: all.
        keeps_end: the part is the end of the text.
    """

    num_tokens: int | None = None
    keeps_end: bool = False

    def parts(self, text: str) -> Iterator[str]:
        """Yield parts of a text, each twice as long as the last, and then all of it."""
        if self.num_tokens is not None:
            size = max(MIN_PART_CHARS, self.num_tokens * CHARS_PER_TOKEN)
            while size < len(text):
                yield text[-size:] if self.keeps_end else text[:size]
                size *= 2
        yield text

    def is_reached(self, num_tokens: int) -> bool:
        """Whether so many are more than twice those that are wanted."""
        return self.num_tokens is not None and num_tokens > 2 * self.num_tokens


ALL = Enough()
