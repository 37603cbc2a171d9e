"""The fields of a Messages request, and the chat request that asks for the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from llmplug.errors import InvalidRequest, UnsupportedParameter
from llmplug.server.anthropic.blocks import continues_answer
from llmplug.server.schema.chat import ChatRequest
from llmplug.server.schema.sampling import SamplingFields

# What they ask for is not served, and would change the answer.
UNSERVED_IN_MESSAGES: Mapping[str, Any] = {
    name: lambda value: value in (None, [], {}, False)
    for name in ("container", "context_management", "mcp_servers", "fallbacks")
}
_HARMLESS_IN_TOOLS = frozenset({"cache_control", "input_examples", "defer_loading"})


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Thinking(_Part):
    """`thinking`: whether, and for how many tokens."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: str | None = None


class OutputConfig(_Part):
    """`output_config`: how hard to think, and what the answer must look like."""

    effort: str | None = None
    format: dict[str, Any] | None = None


class CountRequest(_Part):
    """Fields of `POST /v1/messages/count_tokens`: what a prompt is made of."""

    model: str
    messages: Any  # write_messages checks it
    system: Any = None
    tools: Any = None  # write_tools checks these two
    tool_choice: Any = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: Any = None  # prefixes are cached whether it asks or not
    chat_template_kwargs: dict[str, Any] | None = None

    def to_chat(self) -> ChatRequest:
        """The chat request that asks for the same, but for its messages."""
        return self._make_chat({})

    def _make_chat(self, fields: dict[str, Any]) -> ChatRequest:
        choice, is_parallel = write_tool_choice(self.tool_choice)
        is_continued = continues_answer(self.messages)
        output = self.output_config or OutputConfig()
        chat = ChatRequest.model_construct(
            **{
                "model": self.model,
                "messages": None,
                "tools": write_tools(self.tools),
                "tool_choice": choice,
                "parallel_tool_calls": is_parallel,
                "reasoning_effort": output.effort,
                "response_format": _write_format(output.format),
                "chat_template_kwargs": self._switch_thinking(output.effort),
                "continue_final_message": is_continued or None,
                **fields,
            }
        )
        chat.check()
        return chat

    def _switch_thinking(self, effort: str | None) -> dict[str, Any] | None:
        """Turn thinking on or off; what is not asked for is left to the model's template."""
        options = dict(self.chat_template_kwargs or {})
        if self.thinking is None:
            return options or None
        if self.thinking.type == "disabled" and effort is not None:
            raise InvalidRequest(
                "'thinking' is disabled, and 'output_config.effort' says how much of it is wanted.",
                param="thinking",
            )
        return {"enable_thinking": self.thinking.type != "disabled", **options}


class MessagesRequest(CountRequest):
    """Fields of `POST /v1/messages` that are served."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Any = None
    service_tier: Literal["auto", "standard_only"] | None = None
    inference_geo: str | None = None

    # Ours, named as in chats.
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    priority: int | None = None
    cache_salt: str | None = None
    structured_outputs: Any = None

    def to_chat(self) -> ChatRequest:
        """The chat request that asks for the same, but for its messages."""
        own = MessagesRequest.model_fields.keys() & SamplingFields.model_fields.keys()
        fields = {name: getattr(self, name) for name in own}
        budget = self.thinking.budget_tokens if self.thinking is not None else None
        if budget is not None and budget >= self.max_tokens:
            raise InvalidRequest(
                "'thinking.budget_tokens' must be below 'max_tokens'.",
                param="thinking.budget_tokens",
            )
        return self._make_chat(
            {**fields, "stop": self.stop_sequences or None, "thinking_token_budget": budget}
        )


def write_tools(tools: Any) -> list[dict[str, Any]] | None:
    """Write tools as chats have them.

    Raises:
        InvalidRequest: they are not made as they should be.
        UnsupportedParameter: one of them is Anthropic's own.
    """
    if not tools:
        return None
    if not isinstance(tools, list):
        raise InvalidRequest("'tools' must be a list.", param="tools", code="invalid_type")
    return [_write_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)]


def _write_tool(tool: Any, where: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise InvalidRequest(f"'{where}' must be an object.", param=where, code="invalid_type")
    kind = tool.get("type") or "custom"
    if kind != "custom":
        raise UnsupportedParameter(
            f"'{where}.type' is {str(kind)[:64]!r}: tools that Anthropic runs or describes are not "
            "supported.",
            param=f"{where}.type",
        )
    known = {"type", "name", "description", "input_schema", "strict"} | _HARMLESS_IN_TOOLS
    unknown = sorted(tool.keys() - known)
    if unknown:
        name = f"{where}.{unknown[0]}"
        raise UnsupportedParameter(f"'{name}' is not supported.", param=name)
    function = {
        "name": tool.get("name"),
        "description": tool.get("description"),
        "parameters": tool.get("input_schema"),
        "strict": tool.get("strict"),
    }
    return {
        "type": "function",
        "function": {name: value for name, value in function.items() if value is not None},
    }


def write_tool_choice(choice: Any) -> tuple[Any, bool | None]:
    """Return `tool_choice` and `parallel_tool_calls` as chats have them.

    Raises:
        InvalidRequest: it is none that is known.
    """
    if choice is None:
        return None, None
    if not isinstance(choice, dict):
        raise InvalidRequest(
            "'tool_choice' must be an object.", param="tool_choice", code="invalid_type"
        )
    kind = choice.get("type")
    is_parallel = None if choice.get("disable_parallel_tool_use") is not True else False
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}, is_parallel
    names = {"auto": "auto", "any": "required", "none": "none"}
    if kind not in names:
        raise InvalidRequest(
            "'tool_choice.type' must be auto, any, tool or none.", param="tool_choice.type"
        )
    return names[kind], is_parallel


def _write_format(value: dict[str, Any] | None) -> Any:
    """Write `output_config.format` as chats write `response_format`."""
    if value is None or value.get("type") != "json_schema":
        return value
    return {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": value.get("schema"), "strict": True},
    }
