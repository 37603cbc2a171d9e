"""Turn a conversation into the token ids of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from llmplug.chat.enough import ALL, Enough
from llmplug.chat.guard import Guard
from llmplug.chat.jinja import Template
from llmplug.chat.marks import Marks
from llmplug.chat.messages import MessageShape, shape_messages
from llmplug.chat.probe import find_answer_end, find_message_shape
from llmplug.errors import InvalidRequest, TemplateError, UnsupportedParameter

if TYPE_CHECKING:
    from llmplug.chat.tokenizer import Tokenizer

# Roles are the template's words, not users': a template may build a token from one.
ROLES = frozenset({"assistant", "developer", "function", "system", "tool", "user"})
_OWN_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt"})


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A rendered conversation."""

    ids: list[int]
    end: str  # the text that the template wrote after the last message


class ChatRenderer:
    """One model's chat template; immutable, and safe to share between threads.

    Attributes:
        shape: what the template makes of messages.
        tokenizer: what the prompts are encoded with.
        variables: names of `template_kwargs` that the template reads.
        takes_documents: whether it reads documents.
        for_tools: renders conversations with tools; mostly this renderer itself.
    """

    def __init__(
        self, tokenizer: Tokenizer, template_source: str, tool_source: str | None = None
    ) -> None:
        """Compile the template and find out what it takes.

        Args:
            tool_source: another template, for conversations with tools.
        Raises:
            CheckpointError: the template has a syntax error.
        """
        self._template = Template(template_source)
        self._special_tokens = dict(tokenizer.special_tokens)
        self.tokenizer = tokenizer
        self._guard = Guard(tokenizer, self._template.tree)
        self._reserved = self._template.reserved | _OWN_VARIABLES | set(self._special_tokens)
        self.variables = self._template.variables - self._reserved
        self.takes_documents = "documents" in self._template.variables
        self.for_tools = self if tool_source is None else ChatRenderer(tokenizer, tool_source)
        self.shape: MessageShape = find_message_shape(self._render_plain)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        enough: Enough = ALL,
    ) -> list[int]:
        """Render and encode: control ids come from the template alone, whatever messages spell.

        Args:
            messages: OpenAI's, of JSON types.
            add_generation_prompt: end with the head of an answer.
            continue_final_message: end within the final message, for the model to go on.
            tools: functions that the model may call, as JSON schemas.
            documents: to answer from, for templates that take them.
            template_kwargs: further variables of the template.
            enough: how much of a prompt that is too long is wanted.
        Raises:
            InvalidRequest: messages or variables are wrong; `param` says which.
            TemplateError: the template refuses them, in its own words.
        """
        rendered, marks = self._render(
            messages, add_generation_prompt, continue_final_message, tools, documents,
            template_kwargs,
        )  # fmt: skip
        return self._guard.encode(rendered, marks, enough)

    def render_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        enough: Enough = ALL,
    ) -> ChatPrompt:
        """Like `render`, and say how the head of the answer begins: perhaps within thinking."""
        more = (continue_final_message, tools, documents, template_kwargs)
        rendered, marks = self._render(messages, add_generation_prompt, *more)
        end = ""
        if add_generation_prompt:
            # What the template leaves out when it is asked for no head; users' text is in both.
            headless, _ = self._render(messages, False, *more)
            end = marks.remove_from(rendered[count_shared(rendered, headless) :])
        return ChatPrompt(self._guard.encode(rendered, marks, enough), end)

    def render_text(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Render without encoding, to look at: the text does not tell tokens from spelled ones."""
        rendered, marks = self._render(
            messages, add_generation_prompt, continue_final_message, tools, documents,
            template_kwargs,
        )  # fmt: skip
        return marks.remove_from(rendered)

    def find_answer_end(self) -> int | None:
        """The control token that the template puts after an answer, if it puts one."""
        token_id = find_answer_end(self)
        return token_id if token_id in self.tokenizer.control_ids else None

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        continue_final_message: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        documents: Sequence[Mapping[str, Any]] | None,
        template_kwargs: Mapping[str, Any] | None,
    ) -> tuple[str, Marks]:
        """Render with marks still in place."""
        options = dict(template_kwargs or {})
        self._check_options(options)
        if tools and not self.shape.takes_tools:
            raise UnsupportedParameter(
                "the chat template of this model has no place for tools", param="tools"
            )
        if documents and not self.takes_documents:
            raise UnsupportedParameter(
                "the chat template of this model has no place for documents", param="documents"
            )
        shaped = shape_messages(messages, self.shape)
        marks = Marks.draw(shaped, tools, documents, options)
        marked = [self._guard.mark(message, marks) for message in shaped]
        for message, original in zip(marked, shaped, strict=True):
            if original["role"] in ROLES:
                message["role"] = original["role"]
        if continue_final_message:
            if add_generation_prompt:
                raise InvalidRequest(
                    "continue_final_message and add_generation_prompt exclude each other",
                    param="continue_final_message",
                )
            _mark_end(marked[-1], len(marked) - 1, marks)
        rendered = self._template.render(
            {
                **self._special_tokens,
                **self._guard.mark(options, marks),
                "messages": marked,
                "tools": self._guard.mark(tools, marks),
                "documents": self._guard.mark(documents, marks),
                "add_generation_prompt": add_generation_prompt,
            }
        )
        rendered = marks.restore_in(rendered)
        return (_cut_end(rendered, marks) if continue_final_message else rendered), marks

    def _check_options(self, options: Mapping[str, Any]) -> None:
        for name in options:
            place = f"chat_template_kwargs.{name}"
            if name in self._reserved:
                raise InvalidRequest(f"{name!r} is not yours to set", param=place)
            if name not in self.variables:
                known = ", ".join(sorted(self.variables)) or "none"
                raise UnsupportedParameter(
                    f"the chat template does not read {name!r}; it reads: {known}", param=place
                )

    def _render_plain(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None
    ) -> str:
        return self._template.render(
            {
                **self._special_tokens,
                "messages": messages,
                "tools": tools,
                "documents": None,
                "add_generation_prompt": False,
            }
        )


def count_shared(a: str, b: str) -> int:
    """Return how many characters two texts begin with in common."""
    if a.startswith(b):  # nearly always, and much quicker
        return len(b)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _mark_end(message: dict[str, Any], index: int, marks: Marks) -> None:
    """Put the end mark behind the text of the final message.

    A space follows the mark: where the template trims, it is gone, and so is the message's own.
    """
    content = message.get("content")
    if isinstance(content, str) and content:
        message["content"] = content + marks.end + " "
    elif isinstance(content, list) and content:
        last = content[-1]
        content[-1] = {**last, "text": last["text"] + marks.end + " "}
    else:
        raise InvalidRequest(
            "the final message has no content to continue", param=f"messages[{index}].content"
        )


def _cut_end(rendered: str, marks: Marks) -> str:
    at = rendered.rfind(marks.end)
    if at < 0:
        raise TemplateError(
            "the chat template does not show the final message, so it cannot be continued",
            param="continue_final_message",
        )
    is_trimmed = rendered[at + 1 : at + 2] != " "
    return rendered[:at].rstrip() if is_trimmed else rendered[:at]
