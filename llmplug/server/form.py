"""Bytes of a form -> its parts: a handful of them, one of which may be a large file.

Source: https://www.rfc-editor.org/rfc/rfc7578
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from sanic.headers import parse_content_header

from llmplug.errors import InvalidRequest

MAX_PARTS = 16
MAX_HEADER_BYTES = 4096  # of one part


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form; `filename` is None where it is no file."""

    name: str
    filename: str | None
    data: bytes

    @property
    def text(self) -> str:
        """What it holds, for those that are no files."""
        return self.data.decode(errors="replace")


def read_form(content_type: str, body: bytes) -> dict[str, Part]:
    """Read the parts of a `multipart/form-data` body, by name.

    Raises:
        InvalidRequest: it is none, or has more parts than any form here.
    """
    boundary = str(parse_content_header(content_type)[1].get("boundary", ""))
    if not boundary:
        raise _bad_form("its Content-Type names no boundary")
    mark = b"\r\n--" + boundary.encode()
    parts: dict[str, Part] = {}
    at = len(mark) - 2  # behind the first mark, which no line end comes before
    if not body.startswith(mark[2:]):
        raise _bad_form("it does not begin with its boundary")
    while body[at : at + 2] != b"--":
        head_end = body.find(b"\r\n\r\n", at, at + MAX_HEADER_BYTES)
        end = body.find(mark, head_end + 4)
        if head_end < 0 or end < 0:
            raise _bad_form("a part has no end")
        part = _read_part(body[at:head_end], body[head_end + 4 : end])
        if part.name in parts or len(parts) == MAX_PARTS:
            raise _bad_form("it has too many parts, or two of one name")
        parts[part.name] = part
        at = end + len(mark)
    return parts


def _read_part(head: bytes, data: bytes) -> Part:
    for line in head.decode(errors="replace").split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-disposition":
            options = parse_content_header(value)[1]
            name, filename = options.get("name"), options.get("filename")
            encoded = options.get("filename*")
            if filename is None and encoded is not None:
                filename = unquote(str(encoded).rpartition("'")[2])
            if name is not None:
                return Part(str(name), None if filename is None else str(filename), data)
    raise _bad_form("a part has no name")


def _bad_form(reason: str) -> InvalidRequest:
    return InvalidRequest(f"The form cannot be read: {reason}.", code="invalid_form")
