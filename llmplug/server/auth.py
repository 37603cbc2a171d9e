"""Who may call what: everything needs a key, but for the probes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmplug.config import read_keys
from llmplug.config.values import is_loopback
from llmplug.errors import ConfigError
from llmplug.server.admission import NO_LIMITS, CallerLimits
from llmplug.server.errors import HttpError
from llmplug.server.record import PROBE_PATHS

if TYPE_CHECKING:
    from sanic import Request

    from llmplug.config import AdminConfig, KeyConfig, ServerConfig
    from llmplug.config.keys import Scope

log = logging.getLogger("llmplug.server")

LOOK_S = 1.0  # between two looks at the file of keys, of which a request takes one


class KeyRing:
    """The API keys, held as digests.

    Args:
        keys: of the config.
        path: of a file with more of them.

    Attributes:
        is_open: there are none, and nobody is asked for one.

    Raises:
        ConfigError: the file cannot be read, or is wrong.
    """

    def __init__(self, keys: Sequence[KeyConfig] = (), path: Path | None = None) -> None:
        self._configured = tuple(keys)
        self._path = path
        self._stamp = _stamp(path)
        self._looked_at = time.monotonic()
        self._keys: list[tuple[bytes, KeyConfig]] = []  # with their digests
        self._take(read_keys(path) if path is not None else ())
        # A file that runs empty closes the door, it does not open it.
        self.is_open = not self._keys and path is None

    def authorise(self, request: Request) -> str:
        """Return the caller of a request for inference, "" where no key is needed.

        Raises:
            HttpError: 401, no key or a wrong one; 403, one that is for something else.
        """
        # The path as it came: any other spelling of a probe needs a key.
        if self.is_open or request.path in PROBE_PATHS:
            return ""
        return self.identify(lambda name: request.headers.getone(name, None), "inference")

    def identify(self, header: Callable[[str], str | None], scope: Scope) -> str:
        """Return whose key the headers hold.

        Args:
            header: name, in small letters -> value.
            scope: what the key must open.
        Raises:
            HttpError: 401, no key or a wrong one; 403, one that is for something else.
        """
        self._look()
        presented = _presented_key(header)
        if presented is None:
            raise _unauthorised("No API key was sent. Send 'Authorization: Bearer KEY'.")
        key = self._find(presented)
        if key is None:
            raise _unauthorised("The API key is wrong.")
        if scope not in key.scopes:
            raise HttpError(
                403,
                f"This API key is not for this: it lacks the scope '{scope}'.",
                code="insufficient_scope",
                kind="permission_error",
            )
        return key.caller

    def limits_of(self, caller: str) -> CallerLimits:
        """Return what a caller may ask for at most; of several keys of one name, the first says."""
        for _, key in self._keys:
            if key.caller == caller:
                return CallerLimits(key.max_running, key.requests_per_minute)
        return NO_LIMITS

    def has_scope(self, scope: Scope) -> bool:
        """Whether any key opens what `scope` stands for."""
        return any(scope in key.scopes for _, key in self._keys)

    def reload(self) -> None:
        """Read the file again; if that fails, what was known before stays.

        Raises:
            ConfigError: the file cannot be read, or is wrong.
        """
        if self._path is None:
            return
        self._stamp = _stamp(self._path)
        keys = read_keys(self._path)
        self._take(keys)
        log.info("read %d API keys of %s", len(keys), self._path)

    def adopt(self, other: KeyRing) -> None:
        """Hold what another ring holds, from now on."""
        self._configured, self._path, self._stamp = other._configured, other._path, other._stamp
        self._keys, self.is_open = other._keys, other.is_open

    def _look(self) -> None:
        """Read the file again if it has changed: no task waits for that, and none can die."""
        now = time.monotonic()
        if self._path is None or now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        if _stamp(self._path) == self._stamp:
            return
        try:
            self.reload()
        except ConfigError as error:
            log.error("the API keys stay as they were: %s", error)

    def _take(self, keys: Sequence[KeyConfig]) -> None:
        self._keys = [(key.digest, key) for key in (*self._configured, *keys)]

    def _find(self, presented: str) -> KeyConfig | None:
        # Header bytes that are no UTF-8 arrive as surrogates.
        digest = hashlib.sha256(presented.encode(errors="surrogateescape")).digest()
        # All keys are compared, whichever matches: the time tells nothing.
        matches = [key for known, key in self._keys if hmac.compare_digest(digest, known)]
        return matches[0] if matches else None


def open_key_ring(settings: ServerConfig) -> KeyRing:
    """Make the key ring that a config describes.

    Raises:
        ConfigError: its file of keys cannot be read, or is wrong.
    """
    path = settings.api_keys_file
    return KeyRing(settings.api_keys, None if path is None else Path(path).expanduser())


def check_admin_key(settings: AdminConfig, keys: KeyRing) -> None:
    """See that the admin listener is not open to other machines.

    Raises:
        ConfigError: it is, and no key has the scope `admin`.
    """
    if settings.port is None or is_loopback(settings.host) or keys.has_scope("admin"):
        return
    raise ConfigError(
        f"server.admin.host: {settings.host!r} can be reached from other machines: give a key "
        "of server.api_keys the scope 'admin'"
    )


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when a file does; None: there is none."""
    try:
        stat = path.stat() if path is not None else None
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino) if stat is not None else None


def _presented_key(header: Callable[[str], str | None]) -> str | None:
    authorization = header("authorization")
    if authorization is not None:
        scheme, _, key = authorization.partition(" ")
        return key.strip() if scheme.lower() == "bearer" and key.strip() else None
    return header("x-api-key")


def _unauthorised(message: str) -> HttpError:
    return HttpError(
        401,
        message,
        code="invalid_api_key",
        kind="authentication_error",
        headers={"WWW-Authenticate": "Bearer"},
    )
