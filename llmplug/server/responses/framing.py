"""How events and errors of responses stand on the wire: named events, and no mark at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmplug.server.framing import MAX_MESSAGE_CHARS, OpenAIFraming

if TYPE_CHECKING:
    from llmplug.server.errors import ErrorReply
    from llmplug.server.responses.writer import ResponseWriter


class ResponsesFraming(OpenAIFraming):
    """Errors as everywhere in OpenAI's API; a stream ends with its last event."""

    end = b""

    def error_event(self, error: ErrorReply, request_id: str) -> bytes:
        """An `error` event, where no response is at hand that could fail."""
        return self._write_error(error, 0)

    def _write_error(self, error: ErrorReply, number: int) -> bytes:
        fields = {
            "type": "error",
            "sequence_number": number,
            "code": error.code,
            "message": error.message[:MAX_MESSAGE_CHARS],
            "param": error.param,
        }
        return b"event: error\ndata: %b\n\n" % msgspec.json.encode(fields)


class WriterFraming(ResponsesFraming):
    """The frame of one response: what goes wrong fails it."""

    def __init__(self, writer: ResponseWriter) -> None:
        self._writer = writer

    def error_event(self, error: ErrorReply, request_id: str) -> bytes:
        """`response.failed`, in its turn."""
        return b"".join(event.frame for event in self._writer.fail(error))


class FollowFraming(ResponsesFraming):
    """The frame of a response that another task writes: it lives on when its reader is cut off."""

    def __init__(self, after: int) -> None:
        self.after = after  # number of the last event that was sent

    def error_event(self, error: ErrorReply, request_id: str) -> bytes:
        """An `error` event, in its turn."""
        return self._write_error(error, self.after + 1)


RESPONSES = ResponsesFraming()
