"""Which replica is asked, by what it has seen of a prompt and how much it has to do.

A request router of Ray Serve: each ingress has one, with a table of its own.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from ray.serve.request_router import RequestRouter

from llmplug.deploy.messages import ForwardedRequest
from llmplug.deploy.prefixes import PrefixTable, rank

if TYPE_CHECKING:
    from ray.serve.request_router import PendingRequest, ReplicaID, RunningReplica


class PrefixRouter(RequestRouter):
    """Sends prompts that begin alike to the same replica, as long as it is not busier by far."""

    def initialize_state(self, slack: float) -> None:
        """Begin with an empty table; Ray calls this once, with the config's values."""
        self._table = PrefixTable()
        self._slack = slack

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Rank the replicas; Ray takes the first that is not full."""
        if pending_request is not None:
            # Else Ray asks again at once, for ever, while all of them are full.
            pending_request.routing_context.should_backoff = True
        prefix = _prefix_of(pending_request)
        # Replicas that are alike are asked in any order, or all ingresses would ask the same.
        shuffled = random.sample(candidate_replicas, len(candidate_replicas))
        replicas = {each.replica_id.unique_id: each for each in shuffled}
        loads = {
            name: self.replica_queue_len_cache.get(each.replica_id) or 0
            for name, each in replicas.items()
        }
        order = rank(loads, prefix, self._table.count_blocks(prefix), self._slack)
        return [[replicas[name]] for name in order]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: object
    ) -> None:
        """Remember who was sent what."""
        alive = {each.unique_id for each in self.curr_replicas}
        self._table.remember(_prefix_of(pending_request), replica_id.unique_id, alive)


def _prefix_of(pending: PendingRequest | None) -> tuple[bytes, ...]:
    if pending is None or not pending.args:
        return ()
    (request, *_) = pending.args
    return request.prefix if isinstance(request, ForwardedRequest) else ()
