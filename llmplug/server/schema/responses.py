"""The Responses request, and the chat request that it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from llmplug.errors import InvalidRequest, UnsupportedParameter
from llmplug.server.param_names import rename_field
from llmplug.server.schema.chat import ChatRequest
from llmplug.server.schema.fields import SERVED_ELSEWHERE, UNSERVED_IN_CHAT
from llmplug.server.schema.sampling import SamplingFields

if TYPE_CHECKING:
    from llmplug.server.schema.fields import Neutral
    from llmplug.server.schema.responses_tools import ResponseTools

MAX_METADATA_PAIRS = 16  # this and the next two are OpenAI's
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 512
LOGPROBS = "message.output_text.logprobs"
_ENCRYPTED = "reasoning.encrypted_content"
# They ask for details of hosted tools and of images; as there are none, nothing is left out.
_EMPTY_INCLUDES = frozenset(
    {
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "web_search_call.action.sources",
        "web_search_call.results",
    }
)


def _is_null(value: Any) -> bool:
    return value is None


# Known fields that are not served, with the values that change nothing; those of chats among
# them, which clients send here by mistake.
UNSERVED_IN_RESPONSES: Mapping[str, Neutral] = {
    **UNSERVED_IN_CHAT,
    **SERVED_ELSEWHERE,
    "context_management": lambda value: value in (None, []),
    "logprobs": lambda value: not value,
    "max_completion_tokens": _is_null,
    "messages": _is_null,
    "personality": _is_null,
    "prompt": _is_null,
    "reasoning_effort": _is_null,
}
_NAMES_OF_CHATS = {
    "max_tokens": "Use 'max_output_tokens'.",
    "n": "A response is one answer.",
    "response_format": "Use 'text.format'.",
}


class _Options(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ReasoningOptions(_Options):
    """`reasoning`."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class TextOptions(_Options):
    """`text`."""

    format: Any = None  # read_structure checks it
    verbosity: str | None = None


# Values that change nothing: no summary is made where thinking is shown as it is, and what
# becomes of earlier thinking is the template's to say.
_NEUTRAL_REASONING = {
    "summary": ("auto",),
    "generate_summary": ("auto",),
    "context": ("auto",),
    "mode": ("standard",),
}


class ResponsesRequest(SamplingFields):
    """Fields of `POST /v1/responses` that are served."""

    input: Any = None  # read_items checks it
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: Any = None  # an id, alone or in an object
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None  # of hosted tools, of which there are none
    top_logprobs: int | None = None
    include: list[str] | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    tools: Any = None  # read_response_tools checks these two
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    store: bool | None = None
    background: bool | None = None
    metadata: dict[str, str] | None = None
    # Repeated in the response; they change nothing else.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    # Ours, named as in chats.
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Any = None
    include_reasoning: bool | None = None
    thinking_token_budget: int | None = None

    @property
    def is_stored(self) -> bool:
        """Whether it is kept when it is done: OpenAI's default is yes."""
        return self.store is not False

    @property
    def has_logprobs(self) -> bool:
        """Whether its text comes with log-probabilities."""
        return LOGPROBS in (self.include or ())

    @property
    def conversation_id(self) -> str | None:
        """The conversation that it goes on with.

        Raises:
            InvalidRequest: the field is neither text nor an object with an id.
        """
        given = self.conversation
        found = given.get("id") if isinstance(given, dict) else given
        if given is not None and not isinstance(found, str):
            raise InvalidRequest(
                "'conversation' must be an id, or an object with one.",
                param="conversation",
                code="invalid_type",
            )
        return found

    def check(self) -> list[str]:
        """Refuse what contradicts itself or is not served; return what is ignored.

        Raises:
            InvalidRequest: `param` says which field.
        """
        self.check_stream_options()
        for name, advice in _NAMES_OF_CHATS.items():
            value = getattr(self, name)
            if value is not None and (name, value) != ("n", 1):
                raise UnsupportedParameter(f"'{name}' is not supported here. {advice}", param=name)
        if self.top_logprobs and not self.has_logprobs:
            raise InvalidRequest(
                f"'top_logprobs' needs 'include' to hold {LOGPROBS!r}.", param="top_logprobs"
            )
        if self.background and not self.is_stored:
            raise InvalidRequest(
                "'background' needs 'store': what runs on alone is asked for by its id.",
                param="background",
            )
        if self.conversation_id is not None and self.previous_response_id is not None:
            raise InvalidRequest(
                "'conversation' and 'previous_response_id' exclude each other.",
                param="previous_response_id",
            )
        check_metadata(self.metadata or {})
        self._check_reasoning()
        self._check_text()
        return self._check_include()

    def to_chat(self, tools: ResponseTools) -> ChatRequest:
        """The chat request that asks for the same, but for its messages."""
        shared = {name: getattr(self, name) for name in SamplingFields.model_fields}
        chat = ChatRequest.model_construct(
            **{
                **shared,
                "stream_options": None,
                "messages": None,
                "max_completion_tokens": self.max_output_tokens,
                "response_format": _nest_format(self.text.format if self.text else None),
                "logprobs": self.has_logprobs,
                "top_logprobs": self.top_logprobs if self.has_logprobs else None,
                "tools": tools.chat,
                "tool_choice": tools.chat_choice,
                "parallel_tool_calls": self.parallel_tool_calls,
                "reasoning_effort": self.reasoning.effort if self.reasoning else None,
                "chat_template": self.chat_template,
                "chat_template_kwargs": self.chat_template_kwargs,
                "documents": self.documents,
                "thinking_token_budget": self.thinking_token_budget,
            }
        )
        chat.check()
        return chat

    def _check_text(self) -> None:
        if self.text is None:
            return
        if self.text.verbosity not in (None, "medium"):
            raise UnsupportedParameter("'text.verbosity' is not supported.", param="text.verbosity")
        form = self.text.format
        is_schema = isinstance(form, dict) and form.get("type") == "json_schema"
        if is_schema and form.get("schema") is None:
            raise InvalidRequest(
                "'text.format.schema' is required.",
                param="text.format.schema",
                code="missing_required_parameter",
            )

    def _check_reasoning(self) -> None:
        for name, neutral in _NEUTRAL_REASONING.items():
            value = getattr(self.reasoning, name, None)
            if value is not None and value not in neutral:
                raise UnsupportedParameter(
                    f"'reasoning.{name}' is supported as {neutral[0]!r} only: thinking is shown "
                    "as the model writes it.",
                    param=f"reasoning.{name}",
                )

    def _check_include(self) -> list[str]:
        for i, name in enumerate(self.include or ()):
            if name not in _EMPTY_INCLUDES | {LOGPROBS, _ENCRYPTED}:
                raise InvalidRequest(
                    f"'include[{i}]' is {name[:64]!r}, which is not known.", param=f"include[{i}]"
                )
        # Thinking stands open in its item's content; there is nothing to be sealed.
        return [f"include[{_ENCRYPTED}]"] if _ENCRYPTED in (self.include or ()) else []


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Hold what a client notes down against OpenAI's limits.

    Raises:
        InvalidRequest: it is too much.
    """
    if len(metadata) > MAX_METADATA_PAIRS:
        raise InvalidRequest(
            f"'metadata' holds {len(metadata)} pairs; at most {MAX_METADATA_PAIRS} are allowed.",
            param="metadata",
        )
    for key, value in metadata.items():
        if len(key) > MAX_METADATA_KEY_CHARS or len(value) > MAX_METADATA_VALUE_CHARS:
            raise InvalidRequest(
                f"'metadata': keys hold {MAX_METADATA_KEY_CHARS} characters at most, values "
                f"{MAX_METADATA_VALUE_CHARS}.",
                param="metadata",
            )


def _nest_format(value: Any) -> Any:
    """Write `text.format` as chats write `response_format`: the schema one level further in."""
    if not isinstance(value, dict) or value.get("type") != "json_schema":
        return value
    return {
        "type": "json_schema",
        "json_schema": {key: each for key, each in value.items() if key != "type"},
    }


# What chats and the engine call a field -> what it is called here; the first that fits.
_NAMES = (
    (r"^tool_choice\.allowed_tools\b", "tool_choice"),
    (r"^(tools\[\d+\]|tool_choice(?:\.tools\[\d+\])?)\.function\b", r"\1"),
    (r"^response_format(\.json_schema)?\b", "text.format"),
    (r"^reasoning_effort$", "reasoning.effort"),
    (r"^(max_tokens|max_completion_tokens)$", "max_output_tokens"),
    (r"^(messages|prompt|prompt_ids)$", "input"),
    (r"^logprobs$", "top_logprobs"),
)


def name_param(error: InvalidRequest) -> InvalidRequest:
    """Say `param`, and the message that names it, as this endpoint's clients know it."""
    return rename_field(error, _NAMES)
