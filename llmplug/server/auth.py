"""Who may call what: everything needs a key, but for the probes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmplug.server.errors import HttpError
from llmplug.server.record import PROBE_PATHS

if TYPE_CHECKING:
    from sanic import Request


class KeyRing:
    """The API keys, held as digests; empty means that the server is open."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def authorise(self, request: Request) -> str:
        """Return the caller's name: a digest of the key, "" where no key is needed.

        Raises:
            HttpError: 401, no key or a wrong one.
        """
        # The path as it came: any other spelling of a probe needs a key.
        if not self._digests or request.path in PROBE_PATHS:
            return ""
        key = _presented_key(request)
        if key is None:
            raise _unauthorised("No API key was sent. Send 'Authorization: Bearer KEY'.")
        digest = _digest(key)
        # All keys are compared, whichever matches: the time tells nothing.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise _unauthorised("The API key is wrong.")
        return digest.hex()[:16]


def _presented_key(request: Request) -> str | None:
    header = request.headers.getone("authorization", None)
    if header is not None:
        scheme, _, key = header.partition(" ")
        return key.strip() if scheme.lower() == "bearer" and key.strip() else None
    return request.headers.getone("x-api-key", None)


def _digest(key: str) -> bytes:
    # Header bytes that are no UTF-8 arrive as surrogates.
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def _unauthorised(message: str) -> HttpError:
    return HttpError(
        401,
        message,
        code="invalid_api_key",
        kind="authentication_error",
        headers={"WWW-Authenticate": "Bearer"},
    )
