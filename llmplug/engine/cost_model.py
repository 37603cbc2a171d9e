"""How long a step takes, learnt from the steps that were run.

    seconds = (steps, new tokens, tokens read, pairs) . coefficients

A step takes some time however little it holds: weights are read, kernels are started. Linear
layers multiply each new token. Attention reads the cached tokens of each sequence once, which is
what a decode waits for on any device; the tokens of a chunk share that reading and wait for the
arithmetic of each with every token up to itself: the pairs. A CPU, where reading and arithmetic
cost about the same, could do with one coefficient for both; a GPU, whose arithmetic far outruns
its memory, could not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import mul

# What is kept of the evidence along a direction when a new step comes along it: about the last
# ten steps of a kind count.
MEMORY = 0.9
# A step that took less than this share of what was predicted is taken to be a mistake of the
# clock: slow ones weigh little by themselves.
MIN_RATIO = 0.5
# As many steps in succession that took more than so many times what was predicted are no outliers:
# the machine has changed, and all evidence is from before.
MAX_SLOW = 8
SLOW_RATIO = 2.0
# A coefficient is expected to explain no more than the whole of the first step that it has a part
# in, give or take; steps scatter by a tenth or so. The square of one in units of the other.
PRIOR = 100.0
# Steps with a chunk after which predictions are worth more than a fixed size.
MIN_CHUNKS = 2


@dataclass(slots=True)
class Work:
    """What its time depends on, of one step or of several together."""

    num_steps: int = 1
    num_tokens: int = 0  # new ones
    num_read: int = 0  # cached tokens, this step's included, of each sequence
    num_pairs: float = 0.0  # of a chunk: each token with every token up to itself

    def add_decode(self, num_cached: int) -> None:
        """Add one token on top of so many."""
        self.num_tokens += 1
        self.num_read += num_cached + 1

    def add_chunk(self, num_cached: int, num_tokens: int) -> None:
        """Add tokens of one prompt on top of so many."""
        self.num_tokens += num_tokens
        self.num_read += num_cached + num_tokens
        self.num_pairs += num_tokens * (num_cached + num_tokens / 2)

    def add_all(self, other: Work) -> None:
        """Add other work."""
        self.num_steps += other.num_steps
        self.num_tokens += other.num_tokens
        self.num_read += other.num_read
        self.num_pairs += other.num_pairs


class CostModel:
    """Recursive least squares of the relative error, in plain floats: some 10 us a step.

    Dividing each step by its own duration makes a step of 5 ms count as much as one of 500 ms, and
    outliers harmless: the slower a step was, the less it weighs. Evidence is forgotten only in
    the direction in which new evidence comes (Kulhavy, Restricted exponential forgetting in
    real-time identification, Automatica 23, 1987), so that an hour of decoding does not forget
    what a prompt costs.

    Attributes:
        num_chunks: steps with a chunk that were observed.
    """

    def __init__(self) -> None:
        self.num_chunks = 0
        self._estimate = [0.0] * 4  # unbounded, as the recursion needs it
        # Of the estimate, in units of the variance of the relative error; 0: never needed yet.
        self._covariance = [[0.0] * 4 for _ in range(4)]
        self._num_slow = 0  # steps in succession
        self._bounded: list[float] | None = None  # what follows from both, once asked for
        self._unawaited: tuple[Work, float] | None = None  # what a device may still be at

    @property
    def is_ready(self) -> bool:
        """Whether enough was seen to predict what a chunk costs."""
        return self.num_chunks >= MIN_CHUNKS

    @property
    def coefficients(self) -> list[float]:
        """Seconds of a step, a new token, a token read, a pair; none is negative."""
        if self._bounded is None:
            self._bounded = self._bound()
        return self._bounded

    def predict(self, work: Work) -> float:
        """Return the seconds that some work will take."""
        step, token, read, pair = self.coefficients
        return (
            step * work.num_steps
            + token * work.num_tokens
            + read * work.num_read
            + pair * work.num_pairs
        )

    def fit_chunk(self, num_cached: int, seconds: float) -> float:
        """Return how many tokens of a prompt, on top of those cached, take so long."""
        _, token, read, pair = self.coefficients
        # pair / 2 * n^2 + slope * n = rest, solved in the form that no cancellation spoils.
        rest = seconds - read * num_cached
        slope = token + read + pair * num_cached
        if rest <= 0.0:
            return 0.0
        divisor = slope + math.sqrt(slope * slope + 2.0 * pair * rest)
        return 2.0 * rest / divisor if divisor > 0.0 else math.inf

    def observe_step(self, work: Work, seconds: float, *, is_awaited: bool) -> None:
        """Learn from a step that took `seconds`, > 0.

        Args:
            is_awaited: a token of it was waited for; else the device may still be at it, and it
                counts together with the one that follows.
        """
        unawaited = self.forget_unawaited()
        if unawaited is not None:
            work.add_all(unawaited[0])
            seconds += unawaited[1]
        if is_awaited:
            self.observe(work, seconds)
        else:
            self._unawaited = work, seconds

    def forget_unawaited(self) -> tuple[Work, float] | None:
        """Let no step count for what was launched before; return that."""
        unawaited, self._unawaited = self._unawaited, None
        return unawaited

    def observe(self, work: Work, seconds: float) -> None:
        """Learn from work that took `seconds`, > 0."""
        self.num_chunks += work.num_pairs > 0
        self._bounded = None
        x = (work.num_steps, work.num_tokens, work.num_read, work.num_pairs)
        predicted = sum(map(mul, self._estimate, x))
        duration = max(seconds, MIN_RATIO * predicted)
        for i, part in enumerate(x):
            if part and not self._covariance[i][i]:
                self._covariance[i][i] = PRIOR * (duration / part) ** 2
        # Unrolled, as this runs in every step: x relative, covariance @ x, x @ covariance @ x.
        a, b, c, d = [part / duration for part in x]
        px = [p * a + q * b + r * c + s * d for p, q, r, s in self._covariance]
        novelty = px[0] * a + px[1] * b + px[2] * c + px[3] * d
        self._num_slow = self._num_slow + 1 if seconds > SLOW_RATIO * predicted else 0
        # Durations of many orders of magnitude may use up the digits: then novelty is nonsense.
        if self._num_slow >= MAX_SLOW or novelty <= 0.0:
            self._covariance = [[0.0] * 4 for _ in range(4)]
            self._num_slow = 0
            return
        gain = (1.0 - predicted / duration) / (1.0 + novelty)
        self._estimate = [old + gain * p for old, p in zip(self._estimate, px, strict=True)]
        # Along x the evidence, 1 / novelty, becomes MEMORY * (1 / novelty + 1).
        shrink = (1.0 - 1.0 / (MEMORY * (1.0 + novelty))) / novelty
        a, b, c, d = [shrink * p for p in px]
        self._covariance = [
            [p - y * a, q - y * b, r - y * c, s - y * d]
            for (p, q, r, s), y in zip(self._covariance, px, strict=True)
        ]

    def _bound(self) -> list[float]:
        """Hold the most negative coefficient at zero, correct the others for that, and so on."""
        bounded, covariance = self._estimate, self._covariance
        for _ in bounded:
            lowest = min(bounded)
            i = bounded.index(lowest)
            variance = covariance[i][i]
            if lowest >= 0.0 or variance <= 0.0:
                break
            shares = [row[i] / variance for row in covariance]
            bounded = [old - lowest * share for old, share in zip(bounded, shares, strict=True)]
            covariance = [
                [entry - share * other for entry, other in zip(row, covariance[i], strict=True)]
                for row, share in zip(covariance, shares, strict=True)
            ]
        return [max(0.0, value) for value in bounded]
