"""From a checked chat request to a generation: prompt, grammar, thinking, how answers are read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from llmplug.chat.call_grammar import build_answer_grammar
from llmplug.dialect import AnswerContext
from llmplug.errors import GrammarError, UnsupportedParameter
from llmplug.grammar import Json, encode_grammar
from llmplug.server.channel_text import Reading
from llmplug.server.delivery import PLAIN, Delivery
from llmplug.server.fit_prompt import choose_enough, fit_prompt
from llmplug.server.generation import Echo
from llmplug.server.schema.structured import read_structure
from llmplug.server.thinking import choose_template_options, make_budget

if TYPE_CHECKING:
    from llmplug.chat.enough import Enough
    from llmplug.chat.render import ChatPrompt
    from llmplug.grammar import Node
    from llmplug.server.admission import Ticket
    from llmplug.server.generation import Generation
    from llmplug.server.model_service import ModelService
    from llmplug.server.schema.chat import ChatRequest
    from llmplug.server.schema.messages import Message
    from llmplug.server.schema.tools import ToolUse
    from llmplug.server.service import Service
    from llmplug.specs import ReasoningParserSpec


async def prepare_chat(
    service: Service,
    model: ModelService,
    asked: ChatRequest,
    messages: list[Message],
    ticket: Ticket,
    *,
    extra: dict[str, Any],
    cache_salt: str,
    tenant: str,
    delivery: Delivery = PLAIN,
    enough: Enough | None = None,
) -> Generation:
    """Make the generation that answers a conversation; nothing runs before its deltas are read.

    Args:
        messages: of the request, read.
        extra: parameters of samplers.
        cache_salt: prefixes are shared between equal ones.
        tenant: for whom.
        delivery: what is told beside the answer, and until when.
        enough: how much of a prompt that is too long is wanted; None: what tells that it is.
    Raises:
        InvalidRequest: the request asks for what this model cannot do; `param` says where.
    """
    sampling = asked.to_sampling(
        max_tokens=asked.token_limit,
        logprobs=asked.num_logprobs,
        prompt_logprobs=asked.prompt_logprobs,
        extra=extra,
        beams=asked.beams,
    )
    use = asked.read_tool_use()
    dialect = model.dialect
    started_at = time.perf_counter()
    prompt = await render_chat(model, asked, messages, use, enough or choose_enough(asked, model))
    is_continued = bool(asked.continue_final_message)
    head = _continue(messages[-1], dialect.reasoning) if is_continued else prompt.end
    budget = make_budget(asked.thinking_token_budget, dialect.reasoning, model.tokenizer, head)
    text, param = read_structure(asked.response_format, asked.structured_outputs)
    rendered_at = time.perf_counter()
    node = await _find_grammar(model, use, head, text, param)
    prepared_at = time.perf_counter()
    ticket.trail.receipt.template_s = rendered_at - started_at
    ticket.trail.receipt.grammar_s = prepared_at - rendered_at
    metrics = service.metrics_of(model)
    metrics.observe_preparation(prepared_at - started_at)
    return service.generate(
        model,
        [fit_prompt(prompt.ids, asked, model, asked.token_limit)],
        sampling,
        ticket,
        num_sequences=1 if asked.n is None else asked.n,
        priority=asked.priority or 0,
        cache_salt=cache_salt,
        tenant=tenant,
        continues_text=is_continued,
        echoes=[Echo(_text_of(messages[-1]))] if asked.echo else [],
        grammar=encode_grammar(node) if node is not None else b"",
        thinking=budget,
        reading=_make_reading(model, use, head, metrics.count_parser_failure),
        delivery=delivery,
    )


async def render_chat(
    model: ModelService,
    asked: ChatRequest,
    messages: list[Message],
    use: ToolUse,
    enough: Enough,
) -> ChatPrompt:
    """Make the prompt of a conversation, with tools and whatever else its template is told.

    Args:
        enough: how much of a prompt that is too long is wanted.

    Raises:
        InvalidRequest: the template refuses it, or has no place for a part of it.
    """
    dialect = model.dialect
    if use.callable and dialect.tools is None:
        raise UnsupportedParameter(
            "'tools' is not supported: nothing is known of how this model writes calls.",
            param="tools",
        )
    is_continued = bool(asked.continue_final_message)
    renderer = await model.find_renderer(asked.chat_template, has_tools=bool(use.shown))
    return await model.render(
        renderer,
        messages,
        add_generation_prompt=asked.add_generation_prompt is not False and not is_continued,
        continue_final_message=is_continued,
        tools=use.shown,
        documents=asked.read_documents(),
        template_kwargs=choose_template_options(
            asked.reasoning_effort,
            asked.chat_template_kwargs,
            dialect.reasoning,
            renderer.variables,
        )
        or None,
        enough=enough,
    )


def _continue(message: Message, reasoning: ReasoningParserSpec | None) -> str:
    """The head of an answer that goes on with a message: past its thinking, but for one it opens.

    Its thinking stands in a field of its own.
    """
    end = reasoning.syntax.end if reasoning is not None and reasoning.syntax is not None else ""
    return end + _text_of(message)


def _text_of(message: Message) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


async def _find_grammar(
    model: ModelService, use: ToolUse, prompt_end: str, text: Node | None, param: str
) -> Node | None:
    """Say what the answer must look like, and see that it can be kept to; None: anything goes.

    Args:
        text: what the content must look like.
        param: the field that says so.
    """
    if text is None and not use.needs_grammar:
        return None
    if text is None:
        param = "tool_choice"
    model.require_grammars(param)
    choice: Literal["none", "auto", "required"] = "auto" if use.callable else "none"
    node = build_answer_grammar(
        model.dialect,
        use.callable,
        choice="required" if use.least else choice,
        most=use.most,
        text=text,
        prompt_end=prompt_end,
    )
    try:
        await model.check_grammar(node, "tools" if use.callable else param)
    except GrammarError:
        if text is not None:  # which part of it is it?
            await model.check_grammar(text, param)
        for tool in use.callable:
            place = f"tools[{use.index_of(tool.name)}].function.parameters"
            await model.check_grammar(Json(dict(tool.parameters)), place)
        raise
    return node


def _make_reading(
    model: ModelService, use: ToolUse, prompt_end: str, on_failure: Any
) -> Reading | None:
    """Say how answers are read; None: all of them is content."""
    dialect = model.dialect
    is_whole = dialect.tools is not None and dialect.tools.is_whole
    if dialect.reasoning is None and not use.callable and not is_whole:
        return None
    return Reading(
        dialect=dialect,
        context=AnswerContext(tools=use.callable, prompt_end=prompt_end),
        is_named=use.mode == "named",
        is_single=not use.is_parallel,
        shown_ids=model.marker_ids(reads_calls=bool(use.callable) or is_whole),
        on_failure=on_failure,
    )
