"""Which beginnings of prompts a server still holds.

A prompt begins with what an application says to all of its users, and goes on with a conversation.
Both are held whole, the one used longest ago goes first: our cache gives pages away one by one,
the end of a prompt before its beginning, which is a little kinder.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

Key = Hashable


class Prefixes:
    """Beginnings by their key, up to a number of tokens."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._tokens: OrderedDict[Key, int] = OrderedDict()
        self.num_tokens = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._tokens

    def match(self, parts: list[tuple[Key, int]]) -> int:
        """Return how many tokens are held of a prompt made of parts, and note their use."""
        total = 0
        for key, length in parts:
            held = self._tokens.get(key, 0)
            if held:
                self._tokens.move_to_end(key)
            total += min(held, length)
            if held < length:
                break
        return total

    def hold(self, key: Key, num_tokens: int) -> None:
        """Hold a part from now on; others go where there is no room."""
        self.num_tokens += num_tokens - self._tokens.pop(key, 0)
        self._tokens[key] = num_tokens
        while self.num_tokens > self._max_tokens and len(self._tokens) > 1:
            _, dropped = self._tokens.popitem(last=False)
            self.num_tokens -= dropped
