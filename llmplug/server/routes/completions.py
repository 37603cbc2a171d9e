"""POST /v1/completions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from llmplug.errors import InvalidRequest
from llmplug.grammar import encode_grammar
from llmplug.server.admission import admit
from llmplug.server.body import check_fields, read_json
from llmplug.server.record import record_of
from llmplug.server.routes.answer import answer_stream, answer_whole, make_head, rename_param
from llmplug.server.routes.chat import salt_for
from llmplug.server.schema.completions import CompletionsRequest
from llmplug.server.schema.completions_reply import CompletionsReply
from llmplug.server.schema.fields import UNSERVED_IN_COMPLETIONS, ignored_header, split_fields
from llmplug.server.schema.prompts import read_prompts
from llmplug.server.schema.reply import TokenNames
from llmplug.server.schema.structured import read_structure

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse

    from llmplug.server.admission import Ticket
    from llmplug.server.generation import Generation
    from llmplug.server.model_service import ModelService
    from llmplug.server.schema.fields import SplitFields
    from llmplug.server.schema.prompts import Prompt
    from llmplug.server.service import Service

_PARAM_NAMES = {"num_sequences": "n", "prompt_ids": "prompt", "prompt_logprobs": "logprobs"}


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add this endpoint."""
    app.add_route(
        create_completion, "/v1/completions", methods=["POST"], ctx_schema=CompletionsRequest
    )


async def create_completion(request: Request) -> HTTPResponse | None:
    """Continue one or several texts."""
    service: Service = request.app.ctx.service
    raw = read_json(request.body)
    model = service.find_for(raw)
    record_of(request).model = model.name
    fields = split_fields(raw, CompletionsRequest, UNSERVED_IN_COMPLETIONS, model.sampler_fields)
    asked = check_fields(CompletionsRequest, {"prompt": None, **fields.served})
    asked.check()
    prompts = read_prompts(asked.prompt)
    reply = CompletionsReply(
        make_head(model, "cmpl"),
        TokenNames(model.tokenizer),
        has_logprobs=asked.logprobs is not None,
        includes_usage=asked.includes_usage,
    )
    answer = answer_stream if asked.stream else answer_whole
    async with request.app.ctx.lifecycle.running(request):
        ticket = admit(request, len(prompts))
        try:
            generation = await _prepare(request, model, asked, prompts, fields, ticket)
            return await answer(request, generation, reply, ignored_header(fields.ignored))
        except InvalidRequest as error:
            raise rename_param(error, _PARAM_NAMES) from None
        finally:
            ticket.close()


async def _prepare(
    request: Request,
    model: ModelService,
    asked: CompletionsRequest,
    prompts: list[Prompt],
    fields: SplitFields,
    ticket: Ticket,
) -> Generation:
    service: Service = request.app.ctx.service
    has_logprobs = asked.logprobs is not None
    is_scoring = asked.token_limit == 0
    sampling = asked.to_sampling(
        max_tokens=1 if is_scoring else asked.token_limit,
        logprobs=asked.logprobs,
        prompt_logprobs=asked.logprobs if asked.echo else None,
        extra=fields.extra,
    )
    form, param = read_structure(asked.response_format, asked.structured_outputs)
    started_at = time.perf_counter()
    if form is not None:
        await model.check_grammar(form, param)
    add_special_tokens = asked.add_special_tokens is not False
    ids = [await model.encode(each, add_special_tokens=add_special_tokens) for each in prompts]
    echoes = (
        [
            await model.echo(prompt, each, has_offsets=has_logprobs)
            for prompt, each in zip(prompts, ids, strict=True)
        ]
        if asked.echo
        else []
    )
    service.metrics_of(model).observe_preparation(time.perf_counter() - started_at)
    return service.generate(
        model,
        ids,
        sampling,
        ticket,
        num_sequences=1 if asked.n is None else asked.n,
        priority=asked.priority or 0,
        cache_salt=salt_for(request, asked.cache_salt),
        tenant=record_of(request).caller,
        continues_text=True,
        echoes=echoes,
        is_scoring=is_scoring,
        grammar=b"" if form is None else encode_grammar(form),
    )
