"""Run a generation and write its reply, streamed or whole: the same deltas either way."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from llmplug.server.errors import as_json
from llmplug.server.param_names import rename_field
from llmplug.server.record import record_of
from llmplug.server.schema.reply import JoinedChoice, Reply, ReplyHead, Shown, StreamedReply
from llmplug.server.sse import EventStream

if TYPE_CHECKING:
    from sanic import Request
    from sanic.response import HTTPResponse

    from llmplug.errors import InvalidRequest
    from llmplug.server.deltas import ChoiceDelta
    from llmplug.server.generation import Generation
    from llmplug.server.model_service import ModelService
    from llmplug.server.schema.generation import GenerationFields

# A refusal comes at once, and must keep its status; a queue may take long, and the client must
# see signs of life. So the 200 of a stream leaves with the first delta or after this.
STATUS_GRACE_S = 10.0


def make_head(model: ModelService, prefix: str) -> ReplyHead:
    """Start a reply now."""
    return ReplyHead(
        id=f"{prefix}-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=model.name,
        fingerprint=model.fingerprint,
    )


def choose_shown(asked: GenerationFields, generation: Generation, *, has_logprobs: bool) -> Shown:
    """Say what a request wants to see beside the text of its reply."""
    return Shown(
        logprobs=has_logprobs,
        token_ids=bool(asked.return_token_ids),
        usage=asked.includes_usage,
        running_usage=generation.usage if asked.repeats_usage else None,
        receipt=generation.delivery.receipt,
    )


def rename_param(error: InvalidRequest, names: Mapping[str, str]) -> InvalidRequest:
    """Say `param` as this endpoint's clients know it: limits use the engine's names."""
    if error.param is None or error.param not in names:
        return error
    return rename_field(error, [(f"^{error.param}$", names[error.param])])


async def answer_whole(
    request: Request, generation: Generation, reply: Reply, headers: Mapping[str, str]
) -> HTTPResponse:
    """Answer with one JSON body."""
    record_of(request).usage = generation.usage
    choices = [JoinedChoice(i) for i in range(generation.num_choices)]
    async with aclosing(generation.deltas()) as deltas:
        async for delta in deltas:
            choices[delta.index].add(delta)
    body = reply.body(choices, generation.usage)
    return as_json(body, _add_timings(headers, generation))


async def answer_stream(
    request: Request, generation: Generation, reply: StreamedReply, headers: Mapping[str, str]
) -> None:
    """Answer with events."""
    record_of(request).usage = generation.usage
    async with aclosing(generation.deltas()) as deltas, Started(deltas) as started:
        await started.settle()
        async with EventStream(request, _add_timings(headers, generation)) as events:
            opening = b"".join(reply.opening(generation.num_choices))
            if opening:
                await events.send(opening)
            async for delta in started:
                frames = b"".join(reply.frames(delta))
                if frames:
                    await events.send(frames)
            await events.finish(b"".join(reply.closing(generation.usage)))


def _add_timings(headers: Mapping[str, str], generation: Generation) -> dict[str, str]:
    receipt = generation.delivery.receipt
    return {**headers, **(receipt.headers() if receipt is not None else {})}


class Started:
    """Deltas whose first one is already on its way."""

    def __init__(self, deltas: AsyncGenerator[ChoiceDelta, None]) -> None:
        self._deltas = deltas
        self._first = asyncio.ensure_future(anext(deltas))

    async def __aenter__(self) -> Started:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop waiting: the generator can only be closed once nothing runs in it."""
        if not self._first.done():
            self._first.cancel()
            with suppress(asyncio.CancelledError):
                await self._first
        elif not self._first.cancelled():
            self._first.exception()  # it was raised in `settle` or while iterating

    async def settle(self) -> None:
        """Wait for the first delta, within the grace; raise what it raised."""
        done, _ = await asyncio.wait({self._first}, timeout=STATUS_GRACE_S)
        if done:
            self._first.result()

    async def __aiter__(self) -> AsyncIterator[ChoiceDelta]:
        yield await self._first
        async for delta in self._deltas:
            yield delta
