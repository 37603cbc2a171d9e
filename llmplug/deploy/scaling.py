"""How many replicas there should be: an autoscaling policy of Ray Serve.

Ray asks its controller for this a few times a minute, holds the answer within the bounds of the
config and waits for as long as the config says before it follows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

# What a replica tells of itself: the share of its cache of keys and values that is in use.
CACHE_SHARE = "cache_share"


class ScaleByLoad:
    """Wants as many replicas as hold the requests, and the tokens, at the targets."""

    def __init__(self, target_requests: float, target_cache: float) -> None:
        self._target_requests = target_requests
        self._target_cache = target_cache

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return the number of replicas, and what is to be kept until the next call: nothing."""
        shares = (context.aggregated_metrics or {}).get(CACHE_SHARE, {})
        return self.count_replicas(context.total_num_requests, sum(shares.values())), {}

    def count_replicas(self, num_requests: float, cache_share: float) -> int:
        """Count the replicas that a load needs.

        Args:
            num_requests: of all replicas, those that wait included.
            cache_share: of all replicas, added up: 1.5 is one that is full and one half full.
        """
        by_requests = math.ceil(num_requests / self._target_requests)
        by_cache = math.ceil(cache_share / self._target_cache)
        return max(1, by_requests, by_cache)
