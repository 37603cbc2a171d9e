"""File, overrides and secrets -> Config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from llmplug.config.complaint import complain
from llmplug.config.document import Document, read_document
from llmplug.config.fields import Config
from llmplug.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.config.values import Path as ValuePath

COMMAND_LINE = "command line"


def load(path: str | Path, sets: Sequence[str] = ()) -> Config:
    """Read a config file.

    Args:
        path: of the YAML file; messages show it as it is given.
        sets: overrides, `a.b.0.c=value`, in order.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong: all of it is said.
    """
    return parse(read_text(path), str(path), sets)


def read_text(path: str | Path) -> str:
    """Read a file that holds text.

    Raises:
        ConfigError: it cannot be read, or is no UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text, at byte {error.start}") from error


def parse(text: str, name: str = "config", sets: Sequence[str] = ()) -> Config:
    """Read a config from YAML text; `name` stands for the file in messages.

    Raises:
        ConfigError: something in it is wrong: all of it is said.
    """
    return _finish(read_document(text, name), sets)


def from_source(
    source: str,
    host: str | None = None,
    port: int | None = None,
    api_key: str | None = None,
    sets: Sequence[str] = (),
) -> Config:
    """Make the config of `llmplug serve SOURCE`: one model, defaults for the rest.

    Raises:
        ConfigError: a value is wrong.
    """
    keys = None if api_key is None else [api_key]
    asked = {"host": host, "port": port, "api_keys": keys}
    server = {key: value for key, value in asked.items() if value is not None}
    values = {"models": [{"source": source}], "server": server}
    places: dict[ValuePath, str] = {("server", key): COMMAND_LINE for key in server}
    places["models", 0, "source"] = COMMAND_LINE
    return _finish(Document(COMMAND_LINE, values, places), sets)


def _finish(document: Document, sets: Sequence[str]) -> Config:
    for assignment in sets:
        document.override(assignment)
    document.expand_secrets(Config)
    try:
        config = Config.model_validate(document.values)
    except ValidationError as error:
        # Not chained: the original shows input values, secrets included.
        raise complain(error, document, Config) from None
    config._places = document.places
    return config
