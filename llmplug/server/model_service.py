"""One model that is served: the only place that ties text to an engine."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from llmplug import __version__
from llmplug.chat.channels import Dialect
from llmplug.chat.detokenize import Detokenizer
from llmplug.chat.enough import ALL, Enough
from llmplug.chat.fill_middle import MiddleStyle, encode_gap
from llmplug.chat.marker_tokens import find_marker_ids
from llmplug.chat.render import ChatPrompt, ChatRenderer
from llmplug.chat.tool_text import find_written_calls, put_tools_in_text
from llmplug.errors import CheckpointError, InvalidRequest, UnsupportedParameter
from llmplug.server.generation import Echo

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmplug.chat.tokenizer import Tokenizer
    from llmplug.grammar import Node
    from llmplug.pooling import Pooling
    from llmplug.server.engine_connection import EngineConnection
    from llmplug.server.schema.prompts import Prompt
    from llmplug.specs import Task
    from llmplug.types import EngineReady

# Below this, tokenising is quicker than handing it to a thread.
INLINE_CHARS = 2048

Result = TypeVar("Result")


class GrammarCheck(Protocol):
    """Finds out whether the engine will be able to follow a grammar, away from the engine."""

    async def check(self, node: Node, param: str) -> None:
        """Compile a tree under a budget. Raises GrammarError with this `param` if that fails."""

    async def start(self) -> None:
        """Get ready for the first one."""

    async def stop(self) -> None:
        """Let go of what it takes."""


class ModelService:
    """One model: its names, its tokenizer, its chat template, its engine.

    Args:
        name: what `model` says in requests and replies.
        aliases: further names.
        renderer: None where the model has no chat template.
        sampler_fields: request fields that installed samplers claim.
        created: unix time, s.
        details: further fields of the model's card.
        dialect: how the model writes thinking and calls.
        grammars: checks grammars; None: no backend is installed.
        task: what the model is for.
        pooling: how its vectors are made; None: it generates.
        labels: of a classifier, in the order of its scores.
        context_length: tokens of prompt and answer, as planned.
        trusts_templates: whether requests may bring chat templates.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Tokenizer,
        renderer: ChatRenderer | None,
        client: EngineConnection,
        *,
        aliases: Sequence[str] = (),
        sampler_fields: Collection[str] = (),
        created: int | None = None,
        details: Mapping[str, Any] | None = None,
        dialect: Dialect | None = None,
        grammars: GrammarCheck | None = None,
        trusts_templates: bool = False,
        task: Task = "generate",
        pooling: Pooling | None = None,
        labels: Sequence[str] = (),
        context_length: int | None = None,
    ) -> None:
        self.name = name
        self.aliases = tuple(aliases)
        self.tokenizer = tokenizer
        self.client = client
        self.sampler_fields = frozenset(sampler_fields)
        self.created = int(time.time()) if created is None else created
        self.task = task
        self.pooling = pooling
        self.labels = tuple(labels)
        self.ready: EngineReady | None = None
        self.grammars = grammars
        self._open_template = lru_cache(maxsize=8)(partial(_open_template, tokenizer))
        self._details = dict(details or {})
        self._context_length = context_length
        self._take_chat(renderer, dialect or Dialect(), trusts_templates=trusts_templates)

    def with_chat(
        self,
        renderer: ChatRenderer | None,
        dialect: Dialect,
        *,
        aliases: Sequence[str],
        trusts_templates: bool,
    ) -> ModelService:
        """Make the same model with another template, dialect and names.

        Both share the engine; who has begun with one of them goes on with it.
        """
        other = copy.copy(self)
        other.aliases = tuple(aliases)
        other._take_chat(renderer, dialect, trusts_templates=trusts_templates)
        return other

    def _take_chat(
        self, renderer: ChatRenderer | None, dialect: Dialect, *, trusts_templates: bool
    ) -> None:
        self.dialect = dialect
        # Rendering the head of an answer apart costs as much again: only where it can matter.
        self._reads_head = dialect.reasoning is not None or (
            dialect.tools is not None and dialect.tools.make is not None
        )
        self._written_calls = find_written_calls(dialect.tools)
        self._reasoning_ids = find_marker_ids(self.tokenizer, dialect.reasoning)
        self._call_ids = find_marker_ids(self.tokenizer, dialect.tools)
        self._renderer = renderer
        self._trusts_templates = trusts_templates

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and answer; None: nobody knows before the engine is up."""
        return self._context_length if self.ready is None else self.ready.context_length

    def require_grammars(self, param: str) -> GrammarCheck:
        """Return what checks grammars.

        Raises:
            UnsupportedParameter: no grammar backend is installed; it names the field `param`.
        """
        if self.grammars is None:
            raise UnsupportedParameter(
                f"'{param}': forced calls, strict tools and structured output need a grammar "
                "backend, and none is installed.",
                param=param,
            )
        return self.grammars

    async def check_grammar(self, node: Node, param: str) -> None:
        """See that an answer can be held to a grammar.

        Raises:
            UnsupportedParameter: no grammar backend is installed.
            GrammarError: it cannot be followed; both name the field `param`.
        """
        await self.require_grammars(param).check(node, param)

    @property
    def fingerprint(self) -> str:
        """Changes when what computes the answers changes."""
        report = repr(sorted(self._details.items())) if self._details else ""
        digest = hashlib.sha256(f"{__version__}/{self.name}/{report}".encode()).hexdigest()
        return f"llmplug-{__version__}-{digest[:8]}"

    def card(self) -> dict[str, Any]:
        """OpenAI's model object."""
        card = make_card(self.name, self.created, self.client.state, self.aliases)
        if self.task != "generate":
            card["task"] = self.task
        if self.context_length is not None:
            card["max_model_len"] = self.context_length
        return {**card, **self._details}

    def marker_ids(self, *, reads_calls: bool) -> frozenset[int]:
        """Special tokens that markers are made of, those of calls only where they are read."""
        return self._reasoning_ids | self._call_ids if reads_calls else self._reasoning_ids

    async def find_renderer(self, template: str | None, *, has_tools: bool) -> ChatRenderer:
        """Return what renders conversations: the model's own, or a request's where it is trusted.

        Args:
            has_tools: whether the conversation has some.
        Raises:
            InvalidRequest: the model has no chat template, or that of the request is none.
            UnsupportedParameter: requests may bring none.
        """
        if template is not None:
            if not self._trusts_templates:
                raise UnsupportedParameter(
                    "'chat_template' is not supported here: a template is a program, and "
                    "'trust_request_templates' in the model's config is off.",
                    param="chat_template",
                )
            return await asyncio.to_thread(self._open_template, template)
        if self._renderer is None:
            raise InvalidRequest(
                f"The model '{self.name}' has no chat template. Use /v1/completions, or set "
                "'chat_template' in its config.",
                param="model",
            )
        return self._renderer.for_tools if has_tools else self._renderer

    async def render(
        self,
        renderer: ChatRenderer,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool,
        tools: Sequence[Mapping[str, Any]],
        documents: Sequence[Mapping[str, Any]] | None,
        template_kwargs: dict[str, Any] | None,
        enough: Enough = ALL,
    ) -> ChatPrompt:
        """Turn a conversation into the ids of a prompt.

        Args:
            enough: how much of a prompt that is too long is wanted.
        Raises:
            InvalidRequest: the chat template refuses these messages.
        """
        shown, told = messages, tools
        if self._written_calls is not None:
            shown, told = put_tools_in_text(messages, tools, self._written_calls, renderer.shape)
        render = renderer.render_prompt if self._reads_head else renderer.render
        prompt = await _run(
            _count_chars(shown) + _count_chars(told) + _count_chars(documents or ()),
            lambda: render(
                shown,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=told or None,
                documents=documents or None,
                template_kwargs=template_kwargs,
                enough=enough,
            ),
        )
        return prompt if isinstance(prompt, ChatPrompt) else ChatPrompt(prompt, "")

    async def encode(
        self, prompt: Prompt, *, add_special_tokens: bool, enough: Enough = ALL
    ) -> list[int]:
        """Turn a prompt of any kind into ids."""
        if isinstance(prompt, list):
            return prompt
        tokenizer = self.tokenizer
        return await _run(
            len(prompt),
            lambda: tokenizer.encode(prompt, add_special_tokens=add_special_tokens, enough=enough),
        )

    async def encode_gap(
        self,
        style: MiddleStyle,
        prefix: str,
        suffix: str,
        *,
        add_special_tokens: bool,
        enough: Enough = ALL,
    ) -> list[int]:
        """Ask for what stands between two texts."""
        tokenizer = self.tokenizer
        return await _run(
            len(prefix) + len(suffix),
            lambda: encode_gap(
                tokenizer,
                style,
                prefix,
                suffix,
                add_special_tokens=add_special_tokens,
                enough=enough,
            ),
        )

    async def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """Turn ids into text."""
        decode = partial(self.tokenizer.decode, ids, skip_special_tokens=skip_special_tokens)
        return await _run(len(ids), decode)

    async def echo(self, prompt: Prompt, ids: list[int], *, has_offsets: bool) -> Echo:
        """Prepare the repetition of a prompt, with its tokens' places if they are asked for."""
        return await _run(
            len(ids), lambda: _make_echo(self.tokenizer, prompt, ids, has_offsets=has_offsets)
        )


def make_card(name: str, created: int, state: str, aliases: Sequence[str]) -> dict[str, Any]:
    """Write what OpenAI's model object says of every model, and in which state it is."""
    card = {"id": name, "object": "model", "created": created, "owned_by": "llmplug"}
    return {**card, "state": state, **({"aliases": list(aliases)} if aliases else {})}


def _open_template(tokenizer: Tokenizer, source: str) -> ChatRenderer:
    try:
        return ChatRenderer(tokenizer, source)
    except CheckpointError as error:
        raise InvalidRequest(f"'chat_template': {error}", param="chat_template") from error


def _make_echo(tokenizer: Tokenizer, prompt: Prompt, ids: list[int], *, has_offsets: bool) -> Echo:
    if not has_offsets:
        return Echo(
            prompt if isinstance(prompt, str) else tokenizer.decode(ids, skip_special_tokens=False)
        )
    decode = Detokenizer(tokenizer, skip_special_tokens=False)
    # The token that the tokenizer put before a text is no part of it.
    has_added_start = isinstance(prompt, str) and ids[:1] == [tokenizer.bos_token_id]
    pieces: list[str] = []
    offsets: list[int] = []
    length = 0
    for i, token_id in enumerate(ids):
        offsets.append(length)
        piece = "" if i == 0 and has_added_start else decode.feed([token_id])
        pieces.append(piece)
        length += len(piece)
    pieces.append(decode.finish())
    return Echo("".join(pieces), offsets)


async def _run(size: int, work: Callable[[], Result]) -> Result:
    """Run `work` here if it is small, in a thread if the event loop would feel it."""
    return work() if size <= INLINE_CHARS else await asyncio.to_thread(work)


def _count_chars(values: Sequence[Mapping[str, Any]]) -> int:
    """About as many characters as the JSON of these has."""
    count, left = 0, list[Any](values)
    while left:
        value = left.pop()
        if isinstance(value, str):
            count += len(value)
        elif isinstance(value, Mapping):
            left.extend(value.values())
        elif isinstance(value, list | tuple):
            left.extend(value)
    return count
