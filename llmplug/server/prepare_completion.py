"""From a checked completions request to a generation: prompts, echoes, the form of the answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from llmplug.chat.fill_middle import find_ends, find_style
from llmplug.errors import InvalidRequest, UnsupportedParameter
from llmplug.grammar import encode_grammar
from llmplug.server.delivery import PLAIN, Delivery
from llmplug.server.fit_prompt import choose_enough, fit_prompt
from llmplug.server.schema.structured import read_structure

if TYPE_CHECKING:
    from llmplug.server.admission import Ticket
    from llmplug.server.generation import Echo, Generation
    from llmplug.server.model_service import ModelService
    from llmplug.server.schema.completions import CompletionsRequest
    from llmplug.server.schema.prompts import Prompt
    from llmplug.server.service import Service
    from llmplug.types import SamplingParams


async def prepare_completion(
    service: Service,
    model: ModelService,
    asked: CompletionsRequest,
    prompts: Sequence[Prompt],
    ticket: Ticket,
    *,
    extra: dict[str, Any],
    cache_salt: str,
    tenant: str,
    delivery: Delivery = PLAIN,
) -> Generation:
    """Make the generation that continues texts; nothing runs before its deltas are read.

    Args:
        prompts: of the request, read.
        extra: parameters of samplers.
        cache_salt: prefixes are shared between equal ones.
        tenant: for whom.
        delivery: what is told beside the text, and until when.
    Raises:
        InvalidRequest: the request asks for what this model cannot do; `param` says where.
    """
    started_at = time.perf_counter()
    sampling = _make_sampling(model, asked, extra)
    form, param = read_structure(asked.response_format, asked.structured_outputs)
    if form is not None:
        await model.check_grammar(form, param)
    checked_at = time.perf_counter()
    encoded = [await _encode(model, asked, prompt) for prompt in prompts]
    ids = [fit_prompt(each, asked, model, asked.token_limit) for each in encoded]
    echoes = await _make_echoes(model, asked, prompts, encoded, ids) if asked.echo else []
    prepared_at = time.perf_counter()
    ticket.trail.receipt.grammar_s = checked_at - started_at
    ticket.trail.receipt.template_s = prepared_at - checked_at
    service.metrics_of(model).observe_preparation(prepared_at - started_at)
    return service.generate(
        model,
        ids,
        sampling,
        ticket,
        num_sequences=asked.num_made,
        priority=asked.priority or 0,
        cache_salt=cache_salt,
        tenant=tenant,
        continues_text=True,
        echoes=echoes,
        is_scoring=asked.token_limit == 0,
        grammar=b"" if form is None else encode_grammar(form),
        delivery=delivery,
    )


def _make_sampling(
    model: ModelService, asked: CompletionsRequest, extra: dict[str, Any]
) -> SamplingParams:
    """Build the engine's parameters; it makes a token where only the prompt is asked for."""
    echoed = asked.logprobs if asked.echo else None
    wanted = [count for count in (echoed, asked.prompt_logprobs) if count is not None]
    is_rated = asked.num_made > asked.num_shown
    sampling = asked.to_sampling(
        max_tokens=asked.token_limit or 1,
        logprobs=0 if is_rated and asked.logprobs is None else asked.logprobs,
        prompt_logprobs=max(wanted, default=None),
        extra=extra,
        beams=asked.beams,
    )
    style = find_style(model.tokenizer) if asked.suffix else None
    if style is None:
        return sampling
    ends = find_ends(model.tokenizer, style)
    return msgspec.structs.replace(sampling, stop_token_ids=(*sampling.stop_token_ids, *ends))


async def _encode(model: ModelService, asked: CompletionsRequest, prompt: Prompt) -> list[int]:
    enough = choose_enough(asked, model)
    add_special_tokens = asked.add_special_tokens is not False
    if not asked.suffix:
        return await model.encode(prompt, add_special_tokens=add_special_tokens, enough=enough)
    style = find_style(model.tokenizer)
    if style is None:
        raise UnsupportedParameter(
            "'suffix' is not supported: this model has no tokens to fill a gap with.",
            param="suffix",
        )
    if not isinstance(prompt, str):
        raise InvalidRequest("'suffix' needs a 'prompt' of text.", param="suffix")
    return await model.encode_gap(
        style, prompt, asked.suffix, add_special_tokens=add_special_tokens, enough=enough
    )


async def _make_echoes(
    model: ModelService,
    asked: CompletionsRequest,
    prompts: Sequence[Prompt],
    encoded: Sequence[list[int]],
    fitted: Sequence[list[int]],
) -> list[Echo]:
    """Prepare the repetition of each prompt, as far as it was not cut off."""
    return [
        await model.echo(
            prompt if len(ids) == len(whole) else ids,
            ids,
            has_offsets=asked.logprobs is not None,
        )
        for prompt, whole, ids in zip(prompts, encoded, fitted, strict=True)
    ]
