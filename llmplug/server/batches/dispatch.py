"""One line of a batch -> the route that answers it: the same code as for a request of its own."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from sanic import Request
from sanic.compat import Header

from llmplug.errors import EngineUnavailable, Overloaded
from llmplug.server.errors import describe, is_unforeseen
from llmplug.server.framing import OPENAI
from llmplug.server.record import log, record_of
from llmplug.server.routes.chat import create_chat_completion
from llmplug.server.routes.completions import create_completion
from llmplug.server.routes.embeddings import create_embeddings
from llmplug.server.routes.responses import create_response

if TYPE_CHECKING:
    from sanic import Sanic
    from sanic.response import HTTPResponse

    from llmplug.server.batches.lines import Line

# Below whoever waits for an answer: lower runs earlier, and 0 is what requests have.
PRIORITY = 1000
RETRY_S = 1.0  # after a refusal for lack of room, or while an engine starts


class Handler(Protocol):
    """A route's handler."""

    async def __call__(self, request: Request, /) -> HTTPResponse | None:
        """Answer a request."""


_HANDLERS: Mapping[str, Handler] = {
    "/v1/chat/completions": create_chat_completion,
    "/v1/completions": create_completion,
    "/v1/embeddings": create_embeddings,
}


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """What a line was answered."""

    status: int
    request_id: str
    body: Any  # JSON

    @property
    def is_failed(self) -> bool:
        """Whether it is an error."""
        return self.status >= 400

    def to_json(self, line: Line) -> dict[str, Any]:
        """The line of an output file, or of an error file."""
        return {
            "id": _make_id(),
            "custom_id": line.custom_id,
            "response": {
                "status_code": self.status,
                "request_id": self.request_id,
                "body": self.body,
            },
            "error": None,
        }


async def answer_line(
    app: Sanic[Any, Any],
    owner: str,
    line: Line,
    is_over: Callable[[], bool],
    batch_id: str | None = None,
) -> LineAnswer | None:
    """Answer a line as its route would; what is only a lack of room is waited for.

    Args:
        batch_id: of a batch that goes on after a crash: a line of it that is asked again leaves one
            response in the store.
    Returns:
        None: nothing came of it before it `is_over`.
    """
    response_id = None if batch_id is None else _name_response(batch_id, line)
    while not is_over():
        request = _make_request(app, owner, line)
        try:
            return await _answer(request, line, response_id)
        except (Overloaded, EngineUnavailable):
            await asyncio.sleep(RETRY_S)
    return None


def _make_request(app: Sanic[Any, Any], owner: str, line: Line) -> Request:
    body = line.read_body()
    wanted = body.get("priority", 0)
    if isinstance(wanted, int):  # else it is refused like any wrong field
        body["priority"] = max(PRIORITY, wanted)
    headers = Header({"content-type": "application/json"})
    request = Request(line.url.encode(), headers, "1.1", "POST", None, app)  # type: ignore[arg-type]
    request.body = msgspec.json.encode(body)
    record = record_of(request)
    record.caller = owner
    return request


async def _answer(request: Request, line: Line, response_id: str | None) -> LineAnswer:
    record = record_of(request)
    try:
        if line.url in _HANDLERS:
            response = await _HANDLERS[line.url](request)
        else:
            response = await create_response(request, response_id)
    except (Overloaded, EngineUnavailable):
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, this line is answered with it
        if is_unforeseen(error):
            log.exception("a line of a batch failed")
        told = describe(error)
        body = msgspec.json.decode(OPENAI.error_body(told, record.id))
        return LineAnswer(told.status, record.id, body)
    if response is None or response.body is None:
        raise RuntimeError("a line was answered with a stream")
    return LineAnswer(response.status, record.id, msgspec.json.decode(response.body))


def _name_response(batch_id: str, line: Line) -> str:
    """The id of the response to a line: the same however often it is asked."""
    name = f"{batch_id}:{line.number}".encode()
    return f"resp_{hashlib.sha256(name).hexdigest()[:32]}"


def refuse_line(line: Line, code: str, message: str) -> dict[str, Any]:
    """The line of an error file for one that was never answered."""
    return {
        "id": _make_id(),
        "custom_id": line.custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }


def _make_id() -> str:
    return f"batch_req_{uuid.uuid4().hex}"
