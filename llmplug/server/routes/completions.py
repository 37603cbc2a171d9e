"""POST /v1/completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.errors import InvalidRequest
from llmplug.server.admission import admit
from llmplug.server.body import check_fields, read_json
from llmplug.server.delivery import read_delivery
from llmplug.server.prepare_completion import prepare_completion
from llmplug.server.record import record_of
from llmplug.server.routes.answer import (
    answer_stream,
    answer_whole,
    choose_shown,
    make_head,
    rename_param,
)
from llmplug.server.routes.chat import salt_for
from llmplug.server.schema.best_of import BestOfReply
from llmplug.server.schema.completions import CompletionsRequest
from llmplug.server.schema.completions_reply import CompletionsReply
from llmplug.server.schema.fields import UNSERVED_IN_COMPLETIONS, split_fields
from llmplug.server.schema.prompts import read_prompts
from llmplug.server.schema.reply import TokenNames
from llmplug.server.unknown_fields import report_unknown

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse

    from llmplug.server.schema.reply import Reply
    from llmplug.server.service import Service


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add this endpoint."""
    app.add_route(
        create_completion,
        "/v1/completions",
        methods=["POST"],
        ctx_schema=CompletionsRequest,
        ctx_reply="Completion",
        ctx_min_prompts=1,
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
    headers = report_unknown(request, fields.ignored)
    answer = answer_stream if asked.stream else answer_whole
    async with request.app.ctx.lifecycle.running(request):
        ticket = admit(request, len(prompts))
        try:
            generation = await prepare_completion(
                service,
                model,
                asked,
                prompts,
                ticket,
                extra=fields.extra,
                cache_salt=salt_for(request, asked.cache_salt),
                tenant=record_of(request).caller,
                delivery=read_delivery(request, asked),
            )
            reply: Reply = CompletionsReply(
                make_head(model, "cmpl"),
                TokenNames(model.tokenizer, as_ids=bool(asked.return_tokens_as_token_ids)),
                choose_shown(asked, generation, has_logprobs=asked.logprobs is not None),
            )
            if asked.num_made > asked.num_shown:
                reply = BestOfReply(reply, asked.num_shown, asked.num_made)
            return await answer(request, generation, reply, headers)
        except InvalidRequest as error:
            raise rename_param(error, _param_names(asked)) from None
        finally:
            ticket.close()


def _param_names(asked: CompletionsRequest) -> dict[str, str]:
    names = {"num_sequences": "n", "prompt_ids": "prompt"}
    if asked.num_made > asked.num_shown:
        names["n"] = names["num_sequences"] = "best_of"  # which asks for more
    if asked.prompt_logprobs is None:
        names["prompt_logprobs"] = "logprobs"  # asked for by `echo`
    return names
