"""How far an answer is into each phrase, and what the tokens that go on with it are worth.

Texts are bytes, as tokens may cut a character in two. An answer is `matched` bytes into a phrase if
it ends with so many of its first bytes, and with no more of them; as the search of Knuth, Morris
and Pratt does, a byte more or less never makes it look back.

Legend: R rows, V vocabulary.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from llmplug import SamplerRow
    from llmplug.grammar import Vocabulary


@dataclass(frozen=True, slots=True)
class Progress:
    """What is kept of a sequence: a value, as beams that part ways share it."""

    num_read: int = 0  # tokens of the output
    matched: tuple[int, ...] = ()  # bytes of each phrase, in the order of the request


class PhraseSteering:
    """Steers each row by the phrases of its request."""

    def __init__(self, read_vocabulary: Callable[[], Vocabulary]) -> None:
        self._read_vocabulary = read_vocabulary
        # Rows that are at the same place of the same phrase, and those come again, share a list.
        self._list_steps = lru_cache(maxsize=1024)(self._find_steps)

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Add what each row's phrases say; edits in place, and leaves -inf as it is."""
        for logits_V, row in zip(logits_RV, rows, strict=True):
            weights: Mapping[str, float] = row.params.example_phrases
            phrases = [phrase.encode() for phrase in weights]
            row.next_state = progress = self._read_on(row, phrases)
            places = zip(phrases, progress.matched, weights.values(), strict=True)
            for phrase, matched, weight in places:
                ids, shares = self._list_steps(phrase, matched)
                logits_V[ids.to(logits_V.device)] += weight * shares.to(logits_V.device)

    @cached_property
    def _token_bytes(self) -> Sequence[bytes]:
        return self._read_vocabulary().token_bytes

    @cached_property
    def _sorted_tokens(self) -> list[tuple[bytes, int]]:
        return sorted((text, i) for i, text in enumerate(self._token_bytes) if text)

    def _read_on(self, row: SamplerRow, phrases: Sequence[bytes]) -> Progress:
        """Follow the tokens that have come since the last time."""
        before: Progress = row.state or Progress(matched=(0,) * len(phrases))
        text = b"".join(self._token_bytes[i] for i in row.output_ids[before.num_read :])
        matched = map(follow, phrases, before.matched, [text] * len(phrases))
        return Progress(len(row.output_ids), tuple(matched))

    def _find_steps(self, phrase: bytes, matched: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens that go on with a phrase, and the share of it that is then said."""
        shares: dict[int, float] = {}
        for begun in list_beginnings(phrase, matched):
            for token_id, num_said in self._go_on(phrase, begun):
                shares[token_id] = max(shares.get(token_id, 0.0), num_said / len(phrase))
        return torch.tensor(list(shares), dtype=torch.int64), torch.tensor(list(shares.values()))

    def _go_on(self, phrase: bytes, begun: int) -> Iterator[tuple[int, int]]:
        """Yield tokens that go on with a phrase, and the bytes of it that are then said."""
        rest, tokens = phrase[begun:], self._sorted_tokens
        for length in range(1, len(rest)):
            for text, token_id in islice(tokens, bisect_left(tokens, (rest[:length], 0)), None):
                if text != rest[:length]:
                    break
                yield token_id, begun + length
        for text, token_id in islice(tokens, bisect_left(tokens, (rest, 0)), None):
            if not text.startswith(rest):
                break
            yield token_id, len(phrase)


def follow(phrase: bytes, matched: int, text: bytes) -> int:
    """Return how many bytes of a phrase are said once a text has followed `matched` of them."""
    borders = find_borders(phrase)
    for byte in text:
        while matched and (matched == len(phrase) or phrase[matched] != byte):
            matched = borders[matched]
        matched += phrase[matched] == byte
    return matched


def list_beginnings(phrase: bytes, matched: int) -> list[int]:
    """Return the lengths of all beginnings of a phrase that the text ends with, but the whole."""
    borders = find_borders(phrase)
    lengths = [matched] if matched < len(phrase) else []
    while matched:
        matched = borders[matched]
        lengths.append(matched)
    return lengths


@lru_cache(maxsize=1024)
def find_borders(phrase: bytes) -> tuple[int, ...]:
    """Return, for each length, that of the longest shorter beginning which it also ends with."""
    borders = [0, 0]
    for length in range(2, len(phrase) + 1):
        border = borders[-1]
        while border and phrase[border] != phrase[length - 1]:
            border = borders[border]
        borders.append(border + (phrase[border] == phrase[length - 1]))
    return tuple(borders)
