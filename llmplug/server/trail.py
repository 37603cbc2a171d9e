"""What is known of one request to a model: how large it is, where its time went, how it ended.

Never what it says: neither texts nor keys are here, so whoever looks on may keep or send all of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from llmplug.server.deltas import Usage
from llmplug.server.receipt import Receipt

if TYPE_CHECKING:
    from llmplug.types import SamplingParams

Outcome = Literal["running", "done", "abort", "error"]
AbortReason = Literal["client", "shutdown", "deadline"]


@dataclass(slots=True, kw_only=True)
class Trail:
    """Filled in while a request runs.

    Attributes:
        request_id: of the HTTP request, as its client knows it.
        key: whose API key it is; "": nobody is told apart.
        sampling: as it was asked for; None: texts are read, and nothing is generated.
        traceparent: the header of that name, as it came.
        abort_reason: why it was given up, or cut short; None: it was not.
    """

    request_id: str = ""
    route: str = "-"
    model: str = ""
    key: str = ""
    prompt_lengths: Sequence[int] = ()  # tokens
    num_sequences: int = 1  # of each prompt
    sampling: SamplingParams | None = None
    has_grammar: bool = False
    traceparent: str = ""
    usage: Usage = field(default_factory=Usage)
    receipt: Receipt = field(default_factory=Receipt)
    began_at: float = 0.0  # time.time
    finish_reasons: list[str] = field(default_factory=list)
    outcome: Outcome = "running"
    abort_reason: AbortReason | None = None
    error_code: str = ""
    ended_at: float | None = None  # time.perf_counter

    @property
    def seconds(self) -> float:
        """From the engine's being asked to the end, or to now."""
        ended_at = time.perf_counter() if self.ended_at is None else self.ended_at
        began_at = self.receipt.submitted_at
        return 0.0 if began_at is None else ended_at - began_at
