"""How a reply is given, beyond its text: what is told with it, and until when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmplug.server.record import record_of

if TYPE_CHECKING:
    from sanic import Request

    from llmplug.server.receipt import Receipt
    from llmplug.server.schema.generation import GenerationFields

TIMINGS_HEADER = "X-Llmplug-Timings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What one request asks to be told, and when its answer ends whatever it has."""

    has_token_ids: bool = False
    num_prompt_logprobs: int | None = None  # alternatives of each prompt token; None: none asked
    ends_at: float | None = None  # time.perf_counter
    receipt: Receipt | None = None  # the request's, where it is to be shown


PLAIN = Delivery()


def read_delivery(request: Request, asked: GenerationFields) -> Delivery:
    """Read what a request asks for in its body and in its headers."""
    record = record_of(request)
    has_timings = bool(asked.timings) or is_set(request, TIMINGS_HEADER)
    return Delivery(
        has_token_ids=bool(asked.return_token_ids),
        num_prompt_logprobs=asked.prompt_logprobs,
        ends_at=None if asked.deadline_ms is None else record.started_at + asked.deadline_ms / 1000,
        receipt=record.receipt if has_timings else None,
    )


def is_set(request: Request, header: str) -> bool:
    """Whether a header says yes."""
    value: Any = request.headers.getone(header, "")
    return str(value).strip().lower() in ("true", "1")
