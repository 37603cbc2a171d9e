"""Where the time of one request went."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmplug.server.deltas import Usage


@dataclass(slots=True)
class Receipt:
    """Filled in while a request runs; times of `time.perf_counter`, None: not reached yet.

    Of several prompts or choices, the first one that comes so far counts.
    """

    started_at: float = field(default_factory=time.perf_counter)
    template_s: float = 0.0  # rendering and tokenising
    grammar_s: float = 0.0  # checking the form of the answer
    submitted_at: float | None = None  # to the engine
    queue_s: float | None = None  # in the engine, until its first step
    first_token_at: float | None = None
    last_token_at: float | None = None
    num_first_tokens: int = 0  # that came at `first_token_at`

    @property
    def first_token_s(self) -> float | None:
        """From the engine's being asked to the first token."""
        if self.first_token_at is None or self.submitted_at is None:
            return None
        return self.first_token_at - self.submitted_at

    @property
    def prefill_s(self) -> float | None:
        """From the end of the queue to the first token."""
        first_token_s = self.first_token_s
        return None if first_token_s is None else max(0.0, first_token_s - (self.queue_s or 0.0))

    @property
    def decode_s(self) -> float | None:
        """From the first token to the last."""
        if self.first_token_at is None or self.last_token_at is None:
            return None
        return self.last_token_at - self.first_token_at

    def observe(self, now: float, queue_s: float, num_tokens: int) -> None:
        """Note that the engine has sent tokens."""
        if self.first_token_at is None:
            self.first_token_at = now
            self.queue_s = queue_s
            self.num_first_tokens = num_tokens
        self.last_token_at = now

    def to_json(self, usage: Usage) -> dict[str, float | int | None]:
        """The `timings` of a reply; what was not reached is null."""
        decode_s = self.decode_s
        num_later = usage.completion_tokens - self.num_first_tokens
        return {
            "queue_ms": _write_ms(self.queue_s),
            "template_ms": _write_ms(self.template_s),
            "grammar_ms": _write_ms(self.grammar_s),
            "prefill_ms": _write_ms(self.prefill_s),
            "decode_ms": _write_ms(decode_s),
            "total_ms": _write_ms(time.perf_counter() - self.started_at),
            "tokens_per_second": round(num_later / decode_s, 2) if decode_s else None,
            "cached_tokens": usage.cached_tokens,
        }

    def headers(self) -> dict[str, str]:
        """What is known by now, as browsers and proxies read it.

        Source: https://www.w3.org/TR/server-timing/
        """
        phases = {
            "template": self.template_s,
            "grammar": self.grammar_s,
            "queue": self.queue_s,
            "prefill": self.prefill_s,
            "decode": self.decode_s,
            "total": time.perf_counter() - self.started_at,
        }
        known = [f"{name};dur={_write_ms(s)}" for name, s in phases.items() if s is not None]
        return {"Server-Timing": ", ".join(known)}


def _write_ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
