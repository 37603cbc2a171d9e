"""One request while it runs: token deltas of the engine in, deltas of its reply out.

Everything between ids and a reply happens here, for every endpoint, choice by choice
(`choice_text.py`). A reply that is not streamed is the same deltas, joined.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Protocol

import msgspec

from llmplug.chat.stop_strings import StopStrings
from llmplug.errors import EngineError, EngineUnavailable, from_wire
from llmplug.server.choice_text import ChoiceText
from llmplug.server.delivery import PLAIN, Delivery
from llmplug.server.deltas import ChoiceDelta, PromptReport, TokenText, Usage
from llmplug.server.errors import HttpError
from llmplug.server.observers import Observers
from llmplug.server.trail import Trail
from llmplug.types import FinishReason, GenerateRequest, SequenceDelta

if TYPE_CHECKING:
    from llmplug.chat.tokenizer import Tokenizer
    from llmplug.server.admission import Ticket
    from llmplug.server.channel_text import Reading
    from llmplug.server.metrics import ModelMetrics

# Deltas of several prompts wait here for a slow reader; what is beyond stays with the client.
MERGE_QUEUE_SIZE = 64
DEADLINE = "deadline_ms"  # the `stop_reason` of an answer that it cuts off


# Deltas of the engine, each with the number of its prompt.
Numbered = AsyncGenerator[tuple[int, SequenceDelta], None]


class Generator(Protocol):
    """The part of the engine's client that a generation needs."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        """Run one request; closing the iterator aborts it."""

    async def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one of its sequences."""


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that is to be repeated before its completion."""

    text: str
    offsets: Sequence[int] = ()  # of each prompt token in `text`


class Generation:
    """All prompts and choices of one HTTP request.

    Args:
        requests: one per prompt.
        continues_text: the answer's first space is its own, as in completions.
        echoes: one per prompt, if prompts are to be repeated.
        is_scoring: `max_tokens` 0: only prompts are wanted. The engine makes a token, for the
            log-probabilities of the prompt; it is not shown.
        reading: how answers are split; None: they are text.
        delivery: what is told beside the text, and until when.
    """

    def __init__(
        self,
        client: Generator,
        tokenizer: Tokenizer,
        requests: Sequence[GenerateRequest],
        *,
        ticket: Ticket,
        metrics: ModelMetrics,
        trail: Trail | None = None,
        observers: Observers | None = None,
        continues_text: bool = False,
        echoes: Sequence[Echo] = (),
        is_scoring: bool = False,
        reading: Reading | None = None,
        delivery: Delivery = PLAIN,
    ) -> None:
        self.usage = Usage(prompt_tokens=sum(len(each.prompt_ids) for each in requests))
        self.delivery = delivery
        self._trail = trail or Trail()
        self._trail.usage = self.usage
        self._observers = observers or Observers()
        self._client = client
        self._requests = requests
        self._ticket = ticket
        self._metrics = metrics
        self._echoes = echoes
        self._is_scoring = is_scoring
        self._has_started = [False] * len(requests)
        watch = cache(StopStrings)  # setting one up takes long, and copying it does not
        self._choices = {
            (i, j): ChoiceText(
                i * each.num_sequences + j,
                tokenizer,
                each.sampling,
                continues_text=continues_text,
                reading=reading,
                stops=watch(each.sampling.stop, each.sampling.include_stop_str_in_output).copy(),
            )
            for i, each in enumerate(requests)
            for j in range(each.num_sequences)
        }
        self._num_open = len(self._choices)
        self._is_late = False
        self._opened: set[int] = set()
        self._last_token_at: float | None = None

    @property
    def num_choices(self) -> int:
        """Choices in the reply."""
        return len(self._choices)

    async def deltas(self) -> AsyncGenerator[ChoiceDelta, None]:
        """Yield the reply piece by piece; every choice finishes exactly once.

        Raises:
            LlmplugError: the request was refused, or failed.
        """
        try:
            with self._observers.watch(self._trail):
                async with (
                    aclosing(self._sources()) as source,
                    aclosing(self._in_time(source)) as timed,
                ):
                    async for number, delta in timed:
                        for out in await self._take(number, delta):
                            yield out
                        if not self._num_open:
                            break
                if self._num_open and not self._is_late:
                    raise EngineError("the engine ended a request without a finish reason")
                for out in self._cut_off():
                    yield out
        finally:
            self._ticket.close()

    async def _take(self, number: int, delta: SequenceDelta) -> list[ChoiceDelta]:
        """Turn one delta of the engine into ours: an echo, and news."""
        choice = self._choices[number, delta.index]
        if choice.is_finished:
            return []  # it was already under way when its choice met a stop string
        _raise_if_failed(delta)
        self._observe(number, delta)
        out = self._open(number, choice, delta)
        if self._is_scoring:
            choice.is_finished = True
            out.append(ChoiceDelta(choice.index, finish_reason=FinishReason.LENGTH.value))
        else:
            num_tokens, num_reasoning = choice.num_tokens, choice.num_reasoning
            out += self._add_ids(choice, delta, choice.feed(delta), num_tokens)
            self.usage.completion_tokens += choice.num_tokens - num_tokens
            self.usage.reasoning_tokens += choice.num_reasoning - num_reasoning
        if choice.is_finished:
            self._trail.finish_reasons.append(out[-1].finish_reason or "")
            self._num_open -= 1
            if delta.finish_reason is None and self._num_open:
                await self._client.abort(self._requests[number].request_id, delta.index)
        return out

    def _in_time(self, source: Numbered) -> Numbered:
        """What comes before the deadline; where there is none, no generator more runs per token."""
        ends_at = self.delivery.ends_at
        return source if ends_at is None else self._until(ends_at, source)

    async def _until(self, ends_at: float, source: Numbered) -> Numbered:
        while True:
            try:
                async with asyncio.timeout(ends_at - time.perf_counter()) as deadline:
                    item = await anext(source)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if not deadline.expired():
                    raise
                self._is_late = True
                return
            yield item

    def _cut_off(self) -> list[ChoiceDelta]:
        """End what the deadline found unfinished.

        Raises:
            HttpError: 408, nothing was generated.
        """
        if self._is_late:
            self._trail.abort_reason = "deadline"
        if self._num_open and not any(self._has_started):
            # Not a 5xx: the deadline is the client's, and nothing here is to be repaired.
            raise HttpError(
                408,
                f"Nothing was generated within '{DEADLINE}'.",
                code="deadline_exceeded",
                kind="timeout_error",
                headers={"x-should-retry": "false"},  # clients of OpenAI's heed it
            )
        out: list[ChoiceDelta] = []
        for (number, index), choice in self._choices.items():
            if choice.is_finished:
                continue
            delta = SequenceDelta(
                request_id=self._requests[number].request_id,
                index=index,
                finish_reason=FinishReason.LENGTH,
            )
            *texts, end = choice.feed(delta)
            out += [*texts, replace(end, stop_reason=DEADLINE)]
            self._trail.finish_reasons.append(end.finish_reason or "")
        return out

    def _add_ids(
        self, choice: ChoiceText, delta: SequenceDelta, out: list[ChoiceDelta], num_before: int
    ) -> list[ChoiceDelta]:
        """Say with the first of `out` which tokens it is made of, if that is asked for."""
        ids = delta.token_ids[: choice.num_tokens - num_before]
        if not self.delivery.has_token_ids or not ids:
            return out
        first, *others = out or [ChoiceDelta(choice.index)]
        return [replace(first, token_ids=ids), *others]

    def _open(self, number: int, choice: ChoiceText, delta: SequenceDelta) -> list[ChoiceDelta]:
        """What comes before a choice's text, once: a report of the prompt, and the prompt."""
        if choice.index in self._opened:
            return []
        self._opened.add(choice.index)
        out = []
        report = self._report(number, delta)
        if report is not None:
            out.append(ChoiceDelta(choice.index, prompt=report))
        if self._echoes:
            out.append(self._echo(number, choice, delta))
        return out

    def _report(self, number: int, delta: SequenceDelta) -> PromptReport | None:
        count = self.delivery.num_prompt_logprobs
        if count is None and not self.delivery.has_token_ids:
            return None
        return PromptReport(
            token_ids=self._requests[number].prompt_ids if self.delivery.has_token_ids else None,
            logprobs=None
            if count is None
            else [
                each and msgspec.structs.replace(each, top=each.top[:count])
                for each in delta.prompt_logprobs or ()
            ],
        )

    def _echo(self, number: int, choice: ChoiceText, delta: SequenceDelta) -> ChoiceDelta:
        echo = self._echoes[number]
        request = self._requests[number]
        ids = request.prompt_ids
        count = request.sampling.logprobs or 0
        tokens = [
            TokenText(offset, token_id, known.logprob, known.top[:count])
            if known is not None
            else TokenText(offset, token_id, None)
            for offset, token_id, known in zip(
                echo.offsets, ids, delta.prompt_logprobs or (), strict=False
            )
        ]
        if echo.offsets:
            choice.shift(len(echo.text))
        return ChoiceDelta(choice.index, echo.text, tokens)

    def _observe(self, number: int, delta: SequenceDelta) -> None:
        now = time.perf_counter()
        receipt = self._trail.receipt
        receipt.observe(now, delta.queue_s, len(delta.token_ids))
        if not self._has_started[number]:
            self._has_started[number] = True
            self._ticket.start()
            self._metrics.observe_first_token(now - (receipt.submitted_at or now), delta.queue_s)
            self.usage.cached_tokens += delta.num_cached_tokens
        elif self._last_token_at is not None:
            self._metrics.observe_gap(now - self._last_token_at)
        self._last_token_at = now

    async def _sources(self) -> Numbered:
        """Run all requests; their deltas come as they are made."""
        if len(self._requests) == 1:
            async with aclosing(self._client.generate(self._requests[0])) as deltas:
                async for delta in deltas:
                    yield 0, delta
            return
        queue: asyncio.Queue[tuple[int, SequenceDelta | Exception | None]] = asyncio.Queue(
            MERGE_QUEUE_SIZE
        )
        tasks = [
            asyncio.create_task(self._pump(i, request, queue))
            for i, request in enumerate(self._requests)
        ]
        try:
            num_running = len(tasks)
            while num_running:
                number, item = await queue.get()
                if item is None:
                    num_running -= 1
                elif isinstance(item, Exception):
                    raise item
                else:
                    yield number, item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(
        self,
        number: int,
        request: GenerateRequest,
        queue: asyncio.Queue[tuple[int, SequenceDelta | Exception | None]],
    ) -> None:
        try:
            async with aclosing(self._client.generate(request)) as deltas:
                async for delta in deltas:
                    await queue.put((number, delta))
        except Exception as error:  # noqa: BLE001 - raised again by the reader of the queue
            await queue.put((number, error))
        else:
            await queue.put((number, None))


def _raise_if_failed(delta: SequenceDelta) -> None:
    if delta.error is not None:
        raise from_wire(delta.error)
    if delta.finish_reason is FinishReason.ERROR:
        raise EngineError("the engine ended a sequence with an error and no words")
    if delta.finish_reason is FinishReason.ABORT:
        raise EngineUnavailable("The engine gave this request up. Try again.")
