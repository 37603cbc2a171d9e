"""Whether a text, put beside other text, could complete a control token."""

from __future__ import annotations

from collections.abc import Collection


class Seams:
    """The inner parts of some token texts; upper and lower case are taken as one."""

    def __init__(self, texts: Collection[str]) -> None:
        lowered = [text.lower() for text in texts]
        self._longest = max(map(len, lowered), default=0)
        self._ends = {text[n:] for text in lowered for n in range(1, len(text))}
        self._starts = {text[:n] for text in lowered for n in range(1, len(text))}
        self._joined = "\0".join(lowered)

    def completes_start(self, text: str) -> bool:
        """Whether `text` starts with the end of a token, the whole token aside."""
        head = text[: self._longest].lower()
        return any(head[:n] in self._ends for n in range(1, len(head) + 1))

    def leaves_open(self, text: str) -> bool:
        """Whether `text` ends with the start of a token, the whole token aside."""
        tail = text[-self._longest :].lower() if self._longest else ""
        return any(tail[-n:] in self._starts for n in range(1, len(tail) + 1))

    def is_inside(self, text: str) -> bool:
        """Whether `text` is a part of a token, so that both its neighbours could complete it."""
        return len(text) < self._longest and text.lower() in self._joined
