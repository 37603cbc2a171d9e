"""What the grammars of all call tables have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmplug.answer_parts.parameter_types import refuse_keywords, resolve
from llmplug.errors import GrammarError
from llmplug.grammar import Json, Node, OneOf, Repeat, Seq, Text, Until

if TYPE_CHECKING:
    from llmplug.dialect import Tool

_OF_TEXTS = frozenset({"type", "enum", "const"})


def arguments_of(tool: Tool) -> Json:
    """The JSON object that a tool takes.

    Raises:
        GrammarError: its schema asks for something that is no object.
    """
    schema: dict[str, Any] = dict(tool.parameters)
    kinds = schema.get("type", "object")
    if "object" not in ([kinds] if isinstance(kinds, str) else kinds):
        raise GrammarError(f"'type': the arguments of {tool.name!r} must be an object")
    return Json({**schema, "type": "object"})


def repeat_calls(call: Node, between: Node, least: int, most: int | None) -> Node:
    """`least` to `most` calls, and what stands between them."""
    if most == 1:
        return call if least else Repeat(call, 0, 1)
    more = Repeat(Seq([between, call]), max(0, least - 1), None if most is None else most - 1)
    calls = Seq([call, more])
    return calls if least else Repeat(calls, 0, 1)


def list_arguments(arguments: Sequence[Node], between: str, num_required: int) -> Node:
    """All of the first, any of the others in their order, and a text between any two."""
    if num_required:
        return Seq([arguments[0], *_follow_up(arguments[1:], between, num_required - 1)])
    beginnings: list[Node] = [
        Seq([each, *_follow_up(arguments[i + 1 :], between, 0)]) for i, each in enumerate(arguments)
    ]
    return Repeat(OneOf(beginnings), 0, 1)


def _follow_up(arguments: Sequence[Node], between: str, num_required: int) -> list[Node]:
    parts: list[Node] = [Seq([Text(between), each]) for each in arguments]
    return [part if i < num_required else Repeat(part, 0, 1) for i, part in enumerate(parts)]


def write_text(
    schema: Any,
    root: Mapping[str, Any],
    name: str,
    *,
    end: str,
    closing: str = "",
    free: Node | None = None,
) -> Node:
    """A string without quotes, and the marker that ends it.

    Args:
        schema: of the string; `enum` and `const` are all that it may ask.
        root: the document that its references point into.
        name: of the parameter, for messages.
        end: marker that the string cannot hold.
        closing: what is written behind a value that is known; "": the marker.
        free: any string and what closes it; None: any that the marker ends.
    Raises:
        GrammarError: the schema asks more.
    """
    schema = resolve(schema, root)
    more: dict[str, Any] = {"end": end, "closing": closing, "free": free}
    for word in ("anyOf", "oneOf"):
        if word in schema and "enum" not in schema and "const" not in schema:
            refuse_keywords(schema, {word}, name)
            return OneOf([write_text(each, root, name, **more) for each in schema[word]])
    refuse_keywords(schema, _OF_TEXTS, name)
    closing = closing or end
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if values is None and schema.get("type") == "null":
        return Text("null" + closing)
    if values is None:
        return Until(end) if free is None else free
    texts = ["null" if value is None else value for value in values]
    if any(end in text for text in texts):
        raise GrammarError(f"'enum' of {name!r} holds {end!r}, which ends a value")
    return OneOf([Text(text + closing) for text in texts])
