"""What the server needs of whoever runs a model: one engine, one on demand, or several."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llmplug.errors import ConfigError, KernelInputError, PluginError

if TYPE_CHECKING:
    from llmplug.engine.client import OnEvent
    from llmplug.server.replicas.routing import Reason
    from llmplug.types import (
        EngineLoading,
        EngineReady,
        EngineStats,
        GenerateRequest,
        PoolRequest,
        PoolResult,
        SequenceDelta,
    )

# An engine that cannot start for one of these would not start tomorrow either: it is the config
# that must change, and a server that runs without the model would hide that.
MISTAKES = (ConfigError, PluginError, KernelInputError)
# Work exists and no step has ended: no step that makes sense takes so long, on any device.
STALL_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """One of several engines of a model, as it is seen now."""

    number: int
    state: str
    loading: EngineLoading | None
    stalled_s: float
    num_tokens: int  # of its open requests: prompts, and what was generated
    num_routed: Mapping[Reason, int]  # requests, by why they came here


class EngineConnection(Protocol):
    """What the server needs of `llmplug.engine.client.EngineClient`.

    Attributes:
        on_event: told of each turn in the life of its process, and why it came.
    """

    on_event: OnEvent

    @property
    def state(self) -> str:
        """`loading`, `ready`, `failed` or `dead`; of one on demand, `asleep` or `waking` too."""

    @property
    def loading(self) -> EngineLoading | None:
        """The last progress while it loads."""

    @property
    def stats(self) -> EngineStats | None:
        """Gauges and counters of the last step."""

    @property
    def failure(self) -> Exception | None:
        """Why it failed or died."""

    @property
    def stalled_s(self) -> float:
        """Seconds since its last step, while there is work for it; else 0."""

    @property
    def replicas(self) -> Sequence[ReplicaState]:
        """The engines that share the model's requests; none, where one answers all of them."""

    async def start(self) -> None:
        """Start the engine's process."""

    async def wait_ready(self) -> EngineReady:
        """Wait until it holds its weights. Raises why it cannot."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        """Run one request; closing the iterator aborts it."""

    async def pool(self, request: PoolRequest) -> PoolResult:
        """Have a vector made of each text; cancelling the call ends the request."""

    async def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one of its sequences."""

    async def stop(self) -> None:
        """Stop the engine's process."""

    def dump_stacks(self) -> None:
        """Have the engine's process write its stacks to stderr; from any thread."""
