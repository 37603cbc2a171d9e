"""What the elements of a call of MiniMax M3 stand for, by the schema of its tool.

Elements within an element are the members of an object, or the items of a list where the schema
says so or all of them are named `item`; a name that stands there again makes a list too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmplug.answer_parts import resolve, types_of, write_value

_ARRAY, _OBJECT = frozenset({"array"}), frozenset({"object"})


@dataclass(slots=True)
class Element:
    """An element that is being read.

    Attributes:
        start: of its content, in the pieces of source that its parameter is read from.
        texts: what stands in it beside elements.
        children: the elements in it, by name, as JSON.
    """

    name: str
    schema: Any
    types: frozenset[str] | None
    start: int
    texts: list[str] = field(default_factory=list)
    children: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_mixed(self) -> bool:
        """Whether text stands beside elements: then it is neither an object nor a list."""
        return bool(self.children) and any(text.strip() for text in self.texts)

    def write(self, root: Mapping[str, Any]) -> str:
        """Write it as JSON; `root`: the schema that references point into."""
        if not self.children:
            return _write_text("".join(self.texts), self.schema, self.types, root)
        is_list = self.types == _ARRAY or all(name == "item" for name, _ in self.children)
        if is_list and self.types != _OBJECT:
            return f"[{', '.join(value for _, value in self.children)}]"
        return self._write_object(root)

    def _write_object(self, root: Mapping[str, Any]) -> str:
        by_name: dict[str, list[str]] = {}
        for name, value in self.children:
            by_name.setdefault(name, []).append(value)
        members = []
        for name, values in by_name.items():
            value = values[0]
            if len(values) > 1:
                is_list = types_of(member_of(self.schema, name, root), root) == _ARRAY
                items = [list_items(each) for each in values] if is_list else values
                value = f"[{', '.join(filter(None, items))}]"
            members.append(f"{json.dumps(name, ensure_ascii=False)}: {value}")
        return f"{{{', '.join(members)}}}"


def list_items(value: str) -> str:
    """Return what stands within a list; what is no list is one item."""
    return value[1:-1].strip() if value.startswith("[") else value


def member_of(schema: Any, name: str, root: Mapping[str, Any]) -> Any:
    """Return the schema of an object's member; {}: anything."""
    others: Any = {}
    for each in _alternatives(schema, root):
        properties = each.get("properties")
        if isinstance(properties, Mapping) and name in properties:
            return properties[name]
        others = each.get("additionalProperties") or others
    return others if isinstance(others, Mapping) else {}


def items_of(schema: Any, root: Mapping[str, Any]) -> Any:
    """Return the schema of a list's items; {}: anything."""
    return next((each["items"] for each in _alternatives(schema, root) if "items" in each), {})


def _alternatives(schema: Any, root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a schema, and those that it is one of, as far as they are objects."""
    found = resolve(schema, root)
    if not isinstance(found, Mapping):
        return []
    listed = [each for word in ("anyOf", "oneOf", "allOf") for each in found.get(word) or ()]
    others = [resolve(each, root) for each in listed]
    return [found, *(each for each in others if isinstance(each, Mapping))]


def _write_text(
    text: str, schema: Any, types: frozenset[str] | None, root: Mapping[str, Any]
) -> str:
    """Write an element without elements in it."""
    if types == _OBJECT and not text.strip():
        return "{}"
    if types != _ARRAY:
        return write_value(text, types)
    if not text.strip():
        return "[]"
    value = write_value(text, types)
    if value.startswith("["):
        return value
    items = items_of(schema, root)
    return f"[{write_value(text, types_of(items, root))}]"
