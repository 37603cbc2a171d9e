"""One engine of several, and what is known of it from what it was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmplug.server.engine_connection import ReplicaState
from llmplug.server.replicas.prefix_table import PrefixTable
from llmplug.server.replicas.routing import Candidate

if TYPE_CHECKING:
    from llmplug.engine.client import EngineClient
    from llmplug.server.replicas.routing import Reason


class Replica:
    """Counts the tokens of an engine's open requests, and remembers its prompts.

    Attributes:
        num_tokens: of its open requests: their prompts, and what was generated so far. It stands
            for what the engine has to read at each step, and for the pages that it needs.
        is_gone: it is not started again.
    """

    def __init__(self, number: int, client: EngineClient) -> None:
        self.number = number
        self.client = client
        self.num_tokens = 0
        self.is_gone = False
        self._num_routed: Counter[Reason] = Counter()
        self.begin()

    def describe(self) -> ReplicaState:
        """Say how it is; from any thread."""
        return ReplicaState(
            number=self.number,
            state=self.client.state,
            loading=self.client.loading,
            stalled_s=self.client.stalled_s,
            num_tokens=self.num_tokens,
            num_routed=self._num_routed.copy(),
        )

    def begin(self) -> None:
        """The engine is up, with an empty cache."""
        ready = self.client.ready
        self._prefixes = PrefixTable(0 if ready is None else ready.num_pages)

    def consider(self, digests: Sequence[bytes]) -> Candidate:
        """Say what speaks for it and against it, for a prompt of these pages."""
        ready = self.client.ready
        return Candidate(
            number=self.number,
            num_tokens=self.num_tokens,
            num_known=self._prefixes.count_known(digests),
            num_remembered=len(self._prefixes),
            num_routed=self._num_routed.total(),
            cache_tokens=0 if ready is None else ready.num_pages * ready.page_size,
        )

    @contextmanager
    def asked(self, num_tokens: int, digests: Sequence[bytes], reason: Reason) -> Iterator[Load]:
        """Count a request while it is open.

        Args:
            num_tokens: of its prompts.
            reason: why it came here.
        """
        self._prefixes.remember(digests)
        self._num_routed[reason] += 1
        load = Load(self, num_tokens)
        try:
            yield load
        finally:
            load.add(-load.num_tokens)


class Load:
    """The tokens of one open request."""

    def __init__(self, replica: Replica, num_tokens: int) -> None:
        self.num_tokens = 0
        self._replica = replica
        self.add(num_tokens)

    def add(self, count: int) -> None:
        """Count more of them."""
        self.num_tokens += count
        self._replica.num_tokens += count
