"""What chat templates call: the functions and filters that `transformers` gives them.

Users' text is marked while it is rendered (`guard.py`); where a template sorts, the marks must not
show.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

import jinja2
from jinja2.filters import make_multi_attrgetter
from jinja2.utils import Namespace as JinjaNamespace

from llmplug.chat.marks import without_marks


class Namespace(JinjaNamespace):
    """Jinja's `namespace`, but for names with which Python itself reaches into objects."""

    def __init__(*args: Any, **attributes: Any) -> None:
        """Take attributes from mappings and keywords.

        Raises:
            jinja2.exceptions.SecurityError: a name begins with an underscore.
        """
        self, *rest = args
        JinjaNamespace.__init__(self)
        for name, value in dict(*rest, **attributes).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        """Set an attribute, as `{% set x.name = value %}` does."""
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace takes no name such as {name!r}")
        super().__setitem__(name, value)


def make_dict(*args: Any, **items: Any) -> dict[Any, Any]:
    """Make a mapping; the class itself has methods that change other mappings."""
    return dict(*args, **items)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON without the HTML escapes of Jinja's own filter, as chat templates expect it."""
    return json.dumps(
        _with_sorted_keys(value) if sort_keys else value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
    )


def sort_mapping(
    value: Mapping[Any, Any],
    case_sensitive: bool = False,
    by: Literal["key", "value"] = "key",
    reverse: bool = False,
) -> list[tuple[Any, Any]]:
    """Return pairs in order, as Jinja's `dictsort` does."""
    if by not in {"key", "value"}:
        raise jinja2.exceptions.FilterArgumentError("dictsort goes by 'key' or 'value'")
    place = 0 if by == "key" else 1
    prepare = _bare if case_sensitive else _bare_lower
    return sorted(value.items(), key=lambda pair: prepare(pair[place]), reverse=reverse)


@jinja2.pass_environment
def sort_values(
    environment: jinja2.Environment,
    value: Iterable[Any],
    reverse: bool = False,
    case_sensitive: bool = False,
    attribute: str | int | None = None,
) -> list[Any]:
    """Return values in order, as Jinja's `sort` does."""
    prepare = _bare if case_sensitive else _bare_lower
    find = make_multi_attrgetter(environment, attribute, postprocess=prepare)
    return sorted(value, key=find, reverse=reverse)


def _bare(value: Any) -> Any:
    return without_marks(value) if isinstance(value, str) else value


def _bare_lower(value: Any) -> Any:
    return without_marks(value).lower() if isinstance(value, str) else value


def _with_sorted_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        pairs = sorted(value.items(), key=lambda pair: _bare(pair[0]))
        return {key: _with_sorted_keys(item) for key, item in pairs}
    if isinstance(value, list | tuple):
        return [_with_sorted_keys(item) for item in value]
    return value


def raise_exception(message: str) -> None:
    """Refuse a conversation."""
    raise jinja2.TemplateError(message)


def strftime_now(pattern: str) -> str:
    """Write the time."""
    return datetime.now().astimezone().strftime(pattern)
