"""The server that is tried: requests and event streams over the standard library's client."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from llmplug.conformance.checks import expect
from llmplug.errors import ConfigError

MAX_BYTES = 64 * 2**20  # of an answer
_CONNECTIONS: dict[str, type[http.client.HTTPConnection]] = {
    "http": http.client.HTTPConnection,
    "https": http.client.HTTPSConnection,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]  # names in small letters
    body: bytes

    def json(self) -> Any:
        """The body, which must be JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return expect(False, f"the body is no JSON: {self.body[:80]!r}")

    def events(self) -> list[str]:
        """The data of each event of a stream; comments are left out."""
        text = self.body.decode()
        blocks = [block for block in text.split("\n\n") if block.strip()]
        return [
            line.removeprefix("data:").strip()
            for block in blocks
            for line in block.splitlines()
            if line.startswith("data:")
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server, and the model of it that answers.

    Attributes:
        url: with or without `/v1` at its end.
        timeout_s: of one answer.
    Raises:
        ConfigError: the url is none.
    """

    url: str
    model: str
    api_key: str | None = None
    timeout_s: float = 120.0
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in _CONNECTIONS or parts.hostname is None:
            raise ConfigError(f"{self.url!r} is no http or https address")

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        has_key: bool = True,
    ) -> Answer:
        """Send a request.

        Args:
            body: JSON, or bytes that are sent as they are.
        Raises:
            CheckFailed: no answer came.
        """
        headers = dict(self.headers_with_key if has_key else self.headers)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = content_type
        connection = self.connect()
        try:
            connection.request(method, f"{self.root}{path}", data, headers)
            response = connection.getresponse()
            return Answer(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(MAX_BYTES),
            )
        except (OSError, http.client.HTTPException) as error:
            return expect(False, f"no answer: {error!r}")
        finally:
            connection.close()

    @property
    def headers_with_key(self) -> dict[str, str]:
        """Headers of a request, the key among them if there is one."""
        key = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        return {**self.headers, **key}

    def connect(self) -> http.client.HTTPConnection:
        """Make a connection, which opens with its first request; the caller closes it."""
        parts = urlsplit(self.url)
        return _CONNECTIONS[parts.scheme](parts.hostname or "", parts.port, timeout=self.timeout_s)

    @property
    def root(self) -> str:
        """What comes before a path: what a proxy in front of the server strips."""
        return urlsplit(self.url.rstrip("/").removesuffix("/v1")).path

    def post(self, path: str, **fields: Any) -> Answer:
        """Send fields to an endpoint, with the model's name unless they say another."""
        return self.ask("POST", path, {"model": self.model, **fields})

    def chat(self, text: str = "Say hello.", **fields: Any) -> Answer:
        """Ask for an answer to one message."""
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 16, **fields}
        return self.post("/v1/chat/completions", **body)

    def complete(self, prompt: Any = "Once upon a time", **fields: Any) -> Answer:
        """Ask for a text to be continued."""
        return self.post("/v1/completions", **{"prompt": prompt, "max_tokens": 8, **fields})
