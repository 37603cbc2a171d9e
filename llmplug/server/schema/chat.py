"""The chat completions request."""

from __future__ import annotations

from typing import Any

from llmplug.errors import InvalidRequest, UnsupportedParameter
from llmplug.server.schema.functions import read_functions
from llmplug.server.schema.generation import GenerationFields
from llmplug.server.schema.tools import ToolUse, read_tools

# They belong to the renderer: a request that sets them could replace what it renders.
RESERVED_TEMPLATE_ARGUMENTS = frozenset(
    {
        "add_generation_prompt",
        "bos_token",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "eos_token",
        "messages",
        "raise_exception",
        "return_dict",
        "strftime_now",
        "tokenize",
        "tools",
    }
)


class ChatRequest(GenerationFields):
    """Fields of `POST /v1/chat/completions` that are served."""

    messages: Any  # read_messages checks them: unions would spoil the path in its errors
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    echo: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Any = None  # read_documents checks it
    tools: Any = None  # read_tools checks these two
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: Any = None  # read_functions checks these two
    function_call: Any = None
    reasoning_effort: str | None = None
    include_reasoning: bool | None = None
    thinking_token_budget: int | None = None

    def check(self) -> None:
        """Refuse combinations that contradict each other.

        Raises:
            InvalidRequest: they do; `param` names one of the two.
        """
        self.check_generation()
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest(
                "'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs"
            )
        if self.echo and not self.continue_final_message:
            raise InvalidRequest(
                "'echo' repeats the message that is gone on with: it needs "
                "'continue_final_message'.",
                param="echo",
            )
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequest(
                "'continue_final_message' and 'add_generation_prompt' exclude each other.",
                param="continue_final_message",
            )
        reserved = RESERVED_TEMPLATE_ARGUMENTS.intersection(self.chat_template_kwargs or {})
        if reserved:
            param = f"chat_template_kwargs.{min(reserved)}"
            raise InvalidRequest(f"'{param}' is reserved.", param=param)
        if self.add_special_tokens:
            raise UnsupportedParameter(
                "'add_special_tokens' is not supported in chats: the template writes them.",
                param="add_special_tokens",
            )

    def read_documents(self) -> list[dict[str, Any]] | None:
        """Return `documents`, to answer from.

        Raises:
            InvalidRequest: it is no list of objects.
        """
        if self.documents is None:
            return None
        if not isinstance(self.documents, list):
            raise InvalidRequest(
                "'documents' must be a list.", param="documents", code="invalid_type"
            )
        for i, document in enumerate(self.documents):
            if not isinstance(document, dict):
                raise InvalidRequest(
                    f"'documents[{i}]' must be an object.",
                    param=f"documents[{i}]",
                    code="invalid_type",
                )
        return self.documents

    @property
    def has_functions(self) -> bool:
        """Whether tools go by the names that OpenAI deprecated."""
        return bool(self.functions)

    def read_tool_use(self) -> ToolUse:
        """Return what the request says of tools, by either names.

        Raises:
            InvalidRequest: it is malformed, or mixes the names.
        """
        if self.functions in (None, []) and self.function_call in (None, "none"):
            return read_tools(self.tools, self.tool_choice, self.parallel_tool_calls)
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            if getattr(self, name) is not None:
                raise InvalidRequest(f"'functions' does not go with '{name}'.", param="functions")
        return read_functions(self.functions, self.function_call)

    @property
    def token_limit(self) -> int | None:
        """`max_completion_tokens`, or its older name."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives per token, None if no logprobs are asked for."""
        return (self.top_logprobs or 0) if self.logprobs else None
