"""The requests to tokenise and to detokenise."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from llmplug.errors import InvalidRequest
from llmplug.server.schema.chat import ChatRequest

# Fields that only conversations have, as chats call them.
_CHAT_FIELDS = (
    "add_generation_prompt",
    "add_special_tokens",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "messages",
    "reasoning_effort",
    "tools",
)
_SHARED_FIELDS = frozenset({"add_special_tokens"})


class TokenizeRequest(BaseModel):
    """Fields of `POST /tokenize`: a text, or a conversation as chats have it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    model: str
    prompt: str | None = None
    messages: Any = None  # read_messages checks it
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    tools: Any = None  # read_tools checks it
    documents: Any = None  # read_documents checks it
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    def check(self) -> None:
        """Refuse what is neither a text nor a conversation, or both.

        Raises:
            InvalidRequest: it is; `param` names the field.
        """
        if self.prompt is None and self.messages is None:
            raise InvalidRequest(
                "'prompt' or 'messages' is required.",
                param="prompt",
                code="missing_required_parameter",
            )
        if self.prompt is None:
            return
        for name in _CHAT_FIELDS:
            if name not in _SHARED_FIELDS and getattr(self, name) is not None:
                raise InvalidRequest(f"'{name}' and 'prompt' exclude each other.", param=name)

    def to_chat(self) -> ChatRequest:
        """The chat request that the prompt would be made for.

        Raises:
            InvalidRequest: its fields contradict each other.
        """
        fields = {name: getattr(self, name) for name in _CHAT_FIELDS}
        chat = ChatRequest(model=self.model, **fields)
        chat.check()
        return chat


class DetokenizeRequest(BaseModel):
    """Fields of `POST /detokenize`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    model: str
    tokens: list[int]
    skip_special_tokens: bool | None = None

    def check(self, vocab_size: int) -> None:
        """Refuse ids that the vocabulary has not.

        Raises:
            InvalidRequest: `param` names the first of them.
        """
        for i, token_id in enumerate(self.tokens):
            if not 0 <= token_id < vocab_size:
                raise InvalidRequest(
                    f"'tokens[{i}]' is {token_id}; this model has ids from 0 to {vocab_size - 1}.",
                    param=f"tokens[{i}]",
                )
