"""`functions` and `function_call` of a chat request: tools by the names that OpenAI deprecated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.errors import InvalidRequest
from llmplug.server.param_names import rename_field
from llmplug.server.schema.tools import read_tools

if TYPE_CHECKING:
    from llmplug.server.schema.tools import ToolUse

# What tools call a field -> what it is called here.
NAMES = (
    (r"^tools\[(\d+)\](\.function)?", r"functions[\1]"),
    (r"^tools$", "functions"),
    (r"^tool_choice(\.function)?", "function_call"),
)


def read_functions(functions: Any, choice: Any) -> ToolUse:
    """Check both fields; an answer holds one call at most.

    Raises:
        InvalidRequest: one is malformed, or the choice names a function that is not there.
    """
    if functions is not None and not isinstance(functions, list):
        raise InvalidRequest(
            "'functions' must be a list of functions.", param="functions", code="invalid_type"
        )
    tools = [{"type": "function", "function": each} for each in functions or ()]
    if not tools and choice not in (None, "none"):
        raise InvalidRequest("'function_call' needs 'functions'.", param="function_call")
    try:
        return read_tools(tools, _as_tool_choice(choice, functions or []), is_parallel=False)
    except InvalidRequest as error:
        raise rename_field(error, NAMES) from None


def _as_tool_choice(choice: Any, functions: list[Any]) -> Any:
    if choice in (None, "none", "auto"):
        return choice
    name = choice.get("name") if isinstance(choice, dict) else None
    if not isinstance(name, str):
        raise InvalidRequest(
            "'function_call' must be none, auto, or the name of a function in an object.",
            param="function_call",
        )
    if not any(isinstance(each, dict) and each.get("name") == name for each in functions):
        raise InvalidRequest(
            f"'function_call.name': {name[:64]!r} is not among 'functions'.",
            param="function_call.name",
        )
    return {"type": "function", "function": {"name": name}}
