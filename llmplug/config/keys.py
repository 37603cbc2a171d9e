"""API keys: who may call, for what; in the config or in a file that is read when it changes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from llmplug.config.values import ApiKey, FieldProblem, Name, Section

Scope = Literal["inference", "admin"]


class KeyConfig(Section):
    """One API key; plain text stands for `{key: TEXT}`."""

    name: Name | None = Field(
        None,
        description="Whose it is, for logs, metrics and fair shares; several keys may share one. "
        "null: the first 16 digits of the key's digest.",
    )
    key: ApiKey | None = Field(
        None, repr=False, json_schema_extra={"secret": True}, description="The key itself."
    )
    sha256: str | None = Field(None, description="Or its SHA-256, 64 hexadecimal digits.")
    scopes: tuple[Scope, ...] = Field(
        ("inference",), description="What it opens: inference, admin (the admin listener)."
    )
    max_running: int | None = Field(
        None, ge=1, description="Requests that it may have at once; null: any number."
    )
    requests_per_minute: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="How often it may ask; what is not used adds up for 10 s. null: any number.",
    )

    @model_validator(mode="before")
    @classmethod
    def _take_text(cls, data: Any) -> Any:
        return {"key": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _check_one(self) -> KeyConfig:
        if (self.key is None) == (self.sha256 is None):
            raise FieldProblem("expected either key or sha256")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", self.sha256):
            raise FieldProblem("expected 64 hexadecimal digits", "sha256")
        if not self.scopes:
            raise FieldProblem("a key without a scope opens nothing", "scopes")
        return self

    @property
    def digest(self) -> bytes:
        """SHA-256 of the key."""
        if self.sha256 is not None:
            return bytes.fromhex(self.sha256)
        return hashlib.sha256((self.key or "").encode()).digest()

    @property
    def caller(self) -> str:
        """Its name, or the beginning of its digest."""
        return self.name or self.digest.hex()[:16]


class _Server(Section):
    api_keys: tuple[KeyConfig, ...]


class _KeysFile(Section):
    server: _Server


def read_keys(path: str | Path) -> tuple[KeyConfig, ...]:
    """Read a file of keys: YAML with one list, `api_keys`, written as in the config.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong; no key is shown.
    """
    from pydantic import ValidationError

    from llmplug.config.complaint import complain
    from llmplug.config.document import Document, read_document
    from llmplug.config.fields import Config
    from llmplug.config.loading import read_text

    read = read_document(read_text(path), str(path))
    # In the place that it has in a config, where it is known to be a secret.
    places = {("server", *place): where for place, where in read.places.items()}
    document = Document(read.name, {"server": read.values}, places)
    document.expand_secrets(Config)
    try:
        return _KeysFile.model_validate(document.values).server.api_keys
    except ValidationError as error:
        raise complain(error, document, Config) from None
