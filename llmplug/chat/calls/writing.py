"""What the grammars of all call tables have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.errors import GrammarError
from llmplug.grammar import Json, Node, Repeat, Seq

if TYPE_CHECKING:
    from llmplug.dialect import Tool


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
