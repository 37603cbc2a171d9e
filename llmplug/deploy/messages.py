"""What goes between an ingress and a replica, over Ray."""

from __future__ import annotations

from dataclasses import dataclass

Headers = tuple[tuple[bytes, bytes], ...]

# Of one connection (RFC 9110, section 7.6.1): not passed on. A body's length is counted anew.
_OF_A_CONNECTION = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


@dataclass(frozen=True, slots=True)
class ForwardedRequest:
    """An HTTP request, whole."""

    method: str
    target: str  # path and query as they came, still encoded
    headers: Headers
    body: bytes
    prefix: tuple[bytes, ...]  # see prefixes.py


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """The beginning of a reply; the bytes of its body follow, as they come."""

    status: int
    headers: Headers


def end_to_end(headers: Headers) -> Headers:
    """Return the headers that are meant for the other end, names in small letters."""
    named = ((name.lower(), value) for name, value in headers)
    return tuple((name, value) for name, value in named if name not in _OF_A_CONNECTION)
