"""Kinds of values in a config, and what a section of it is."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

Path = tuple[str | int, ...]  # of a value: ("models", 0, "source")
Values = Mapping[str, Any]  # by key, as YAML and JSON have them

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")
_SIZE_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "integer"}], "examples": ["512MiB"]}


class FieldProblem(ValueError):
    """What is wrong between several fields, and at which of them it is to be shown."""

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path


def parse_size(value: Any) -> Any:
    """Turn `512MiB` into bytes; whole numbers are bytes already.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise ValueError(f"expected a size such as 512MiB or 2GiB, got {value!r}")
    return int(float(match[1]) * unit)


def format_size(value: int | str) -> int | str:
    """Write bytes as `parse_size` reads them; words pass."""
    if not isinstance(value, int):
        return value
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value and value % unit == 0:
            return f"{value // unit}{name}"
    return value


def _parse_cache_memory(value: Any) -> Any:
    if value == "auto":
        return value
    size = parse_size(value)
    if size < 2**20:
        raise ValueError(f"{value!r} is less than 1MiB; sizes are written 512MiB or 2GiB")
    return size


def _parse_inter_token_ms(value: Any) -> Any:
    if value == "auto":
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise ValueError(f"expected auto, or milliseconds above 0, got {value!r}")
    return float(value)


def _check_key(key: str) -> str:
    if not re.fullmatch(r"[!-~]+", key):
        raise ValueError("an API key is printable ASCII without spaces, and not empty")
    return key


def _check_name(name: str) -> str:
    if not name.strip() or name != name.strip() or not name.isprintable():
        raise ValueError(f"{name!r} is no name: empty, or with blanks around or control characters")
    return name


def _check_plain(values: Any, *path: str | int) -> Any:
    """Refuse what JSON cannot say, which is how values reach other processes."""
    if isinstance(values, dict | list):
        pairs = values.items() if isinstance(values, dict) else enumerate(values)
        for key, value in pairs:
            _check_plain(value, *path, key)
    elif isinstance(values, float) and not math.isfinite(values):
        raise FieldProblem("expected a finite number", *path)
    elif values is not None and not isinstance(values, bool | int | float | str):
        raise FieldProblem("expected text, a number, true, false or null; put it in quotes", *path)
    return values


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


Size = Annotated[
    int, BeforeValidator(parse_size), PlainSerializer(format_size), WithJsonSchema(_SIZE_SCHEMA)
]
CacheMemory = Annotated[
    int | Literal["auto"],
    BeforeValidator(_parse_cache_memory),
    PlainSerializer(format_size),
    WithJsonSchema(_SIZE_SCHEMA),
]
InterTokenMs = Annotated[float | Literal["auto"], BeforeValidator(_parse_inter_token_ms)]
Name = Annotated[str, AfterValidator(_check_name)]
ApiKey = Annotated[str, AfterValidator(_check_key)]
PlainValues = Annotated[dict[str, Any], AfterValidator(_check_plain)]


class Section(BaseModel):
    """A mapping of the config: frozen, strict, closed."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _take_lists(cls, data: Any) -> Any:
        """Let YAML's and JSON's lists stand for tuples, which strict fields want."""
        if not isinstance(data, Mapping):
            return data
        return {key: tuple(item) if isinstance(item, list) else item for key, item in data.items()}
