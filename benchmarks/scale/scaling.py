"""How many servers there should be: the rule of Kubernetes' HorizontalPodAutoscaler.

For each metric: wanted = ceil(servers * mean / target), unless mean / target is within a tolerance
of 1; the largest counts. More servers come at once, at most so many a minute; fewer come when
nothing larger was wanted for a while.
Source: https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """The numbers of deploy/kubernetes/base/autoscaler.yaml.

    Attributes:
        targets: metric -> its mean of a server at the wanted number of servers.
        start_s: from the wish for a server until it is ready.
    """

    targets: Mapping[str, float]
    min_servers: int = 1
    max_servers: int = 100
    period_s: float = 15.0
    start_s: float = 60.0
    most_added: tuple[float, int] = (1.0, 2)  # a minute: of those that run, or so many
    settle_s: float = 600.0
    most_removed: tuple[int, float] = (1, 180.0)  # so many in so many seconds


@dataclass(slots=True)
class Autoscaler:
    """Remembers what it wanted, and when it changed something."""

    rules: ScalingRules
    _wishes: deque[tuple[float, int]] = field(default_factory=deque)
    _added: deque[tuple[float, int]] = field(default_factory=deque)
    _removed_at: float = -math.inf

    def decide(self, now: float, num_servers: int, means: Mapping[str, float]) -> int:
        """Return how many servers there should be from now on.

        Args:
            num_servers: that run or start.
            means: metric -> mean over those that run.
        """
        rules = self.rules
        wanted = max(self._want(num_servers, metric, mean) for metric, mean in means.items())
        wanted = min(rules.max_servers, max(rules.min_servers, wanted))
        self._wishes.append((now, wanted))
        while self._wishes[0][0] < now - rules.settle_s:
            self._wishes.popleft()
        if wanted > num_servers:
            return self._add(now, num_servers, wanted)
        settled = max(wish for _, wish in self._wishes)
        if settled < num_servers and now >= self._removed_at + rules.most_removed[1]:
            self._removed_at = now
            return max(settled, num_servers - rules.most_removed[0])
        return num_servers

    def _want(self, num_servers: int, metric: str, mean: float) -> int:
        ratio = mean / self.rules.targets[metric]
        if abs(ratio - 1) <= TOLERANCE:
            return num_servers
        return math.ceil(num_servers * ratio)

    def _add(self, now: float, num_servers: int, wanted: int) -> int:
        while self._added and self._added[0][0] <= now - 60:
            self._added.popleft()
        recent = sum(count for _, count in self._added)
        share, least = self.rules.most_added
        most = max(math.ceil((num_servers - recent) * share), least) - recent
        added = max(0, min(wanted - num_servers, most))
        if added:
            self._added.append((now, added))
        return num_servers + added
