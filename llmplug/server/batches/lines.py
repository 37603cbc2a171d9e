"""Lines of an input file: one request each, in OpenAI's batch format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

MAX_LINES = 50_000  # OpenAI's, of one batch
MAX_PROBLEMS = 100  # that are told
MAX_ID_CHARS = 512

# Where lines may go.
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")


@dataclass(frozen=True, slots=True)
class Line:
    """One request.

    Attributes:
        number: of the line in its file, from 1.
        custom_id: its client's name for it.
        text: the whole line; decoded, a large file would take its size in memory many times over.
    """

    number: int
    custom_id: str
    url: str
    text: bytes

    def read_body(self) -> dict[str, Any]:
        """Return the request's fields."""
        body: dict[str, Any] = msgspec.json.decode(self.text)["body"]
        return body


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a line; number 0: with the file."""

    number: int
    message: str
    code: str
    param: str | None = None


def read_lines(
    data: bytes, endpoint: str | None, max_lines: float = MAX_LINES
) -> tuple[list[Line], list[Problem]]:
    """Read an input file; empty lines are passed by.

    Args:
        endpoint: where all lines must go; None: each to one that is served.
    """
    lines: list[Line] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for number, text in enumerate(data.split(b"\n"), start=1):
        if not text.strip():
            continue
        found = _read_line(number, text, endpoint)
        if isinstance(found, Line) and found.custom_id in seen:
            found = Problem(
                number, "The custom_id stands twice.", "duplicate_custom_id", "custom_id"
            )
        if isinstance(found, Problem):
            problems.append(found)
        else:
            seen.add(found.custom_id)
            lines.append(found)
        if len(problems) >= MAX_PROBLEMS or len(lines) > max_lines:
            break
    if len(lines) > max_lines:
        problems.append(Problem(0, f"More than {max_lines} lines.", "too_many_lines"))
    if not lines and not problems:
        problems.append(Problem(0, "The file holds no line.", "empty_file"))
    return lines, problems


def _read_line(number: int, text: bytes, endpoint: str | None) -> Line | Problem:
    try:
        fields = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Problem(number, "The line is no JSON.", "invalid_json_line")
    if not isinstance(fields, dict):
        return Problem(number, "The line is no JSON object.", "invalid_json_line")
    for param, problem in _find_problems(fields, endpoint):
        return Problem(number, problem, "invalid_request", param)
    return Line(number, fields["custom_id"], fields["url"], text)


def _find_problems(fields: dict[str, Any], endpoint: str | None) -> Iterator[tuple[str, str]]:
    custom_id = fields.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID_CHARS:
        yield "custom_id", f"custom_id must be a text of 1 to {MAX_ID_CHARS} characters."
    if fields.get("method") != "POST":
        yield "method", "method must be POST."
    wanted = ENDPOINTS if endpoint is None else (endpoint,)
    if fields.get("url") not in wanted:
        yield "url", f"url must be {' or '.join(wanted)}."
    body = fields.get("body")
    if not isinstance(body, dict):
        yield "body", "body must be an object."
    elif body.get("stream"):
        yield "body.stream", "Answers of a batch cannot be streamed."
    elif body.get("background"):
        yield "body.background", "A batch runs in the background as it is."
