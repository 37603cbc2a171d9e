"""A scripted engine connection, a one-byte-one-token tokenizer and a renderer that remembers."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from array import array
from collections.abc import AsyncGenerator, Callable
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from llmplug.chat.messages import MessageShape
from llmplug.chat.render import ChatPrompt
from llmplug.chat.tokenizer import Tokenizer
from llmplug.engine.pool_limits import PoolLimits, check_pooling
from llmplug.errors import ContextLengthExceeded, InvalidRequest, LlmplugError
from llmplug.server.engine_connection import ReplicaState
from llmplug.specs import TokenizerFiles
from llmplug.types import (
    EngineLoading,
    EngineReady,
    EngineStats,
    FinishReason,
    GenerateRequest,
    PoolRequest,
    PoolResult,
    SequenceDelta,
    TokenLogprob,
)

CONTEXT_LENGTH = 100_000
EOS = "<|end|>"

Script = Callable[[GenerateRequest], AsyncGenerator[SequenceDelta, None]]


def make_tokenizer() -> Tokenizer:
    """Bytes 0..255 are ids of their own; `<|end|>` ends."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([EOS])
    return Tokenizer(TokenizerFiles(json=tokenizer.to_str(), eos_token=EOS))


TOKENIZER = make_tokenizer()


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def logprob_of(token_id: int, count: int) -> TokenLogprob:
    """A made-up distribution: the token itself at ln 1/2, its neighbours below."""
    top = [((token_id + i) % 256, math.log(0.5) - i) for i in range(count)]
    return TokenLogprob(token_id=token_id, logprob=math.log(0.5), rank=1, top=top)


def speak(*pieces: str, finish: FinishReason = FinishReason.STOP, cached: int = 0) -> Script:
    """Say `pieces`, one delta each, in every sequence; then end by the end token, or not."""

    async def script(request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        sampling = request.sampling
        for number, piece in enumerate(pieces):
            for index in range(request.num_sequences):
                await asyncio.sleep(0)
                ids = ids_of(piece)
                is_last = number == len(pieces) - 1
                stop = TOKENIZER.eos_token_id if is_last and finish is FinishReason.STOP else None
                ids += [stop] if stop is not None else []
                first = number == 0
                wants_prompt = first and index == 0 and sampling.prompt_logprobs is not None
                yield SequenceDelta(
                    request_id=request.request_id,
                    index=index,
                    token_ids=ids,
                    logprobs=None
                    if sampling.logprobs is None
                    else [logprob_of(i, sampling.logprobs) for i in ids],
                    prompt_logprobs=[
                        None,
                        *(logprob_of(i, sampling.prompt_logprobs) for i in request.prompt_ids[1:]),
                    ]
                    if wants_prompt
                    else None,
                    num_cached_tokens=cached if first and index == 0 else 0,
                    finish_reason=finish if is_last else None,
                    stop_token_id=stop,
                )

    return script


def endless(gate: asyncio.Event | None = None) -> Script:
    """Say "ab" for ever; after the first delta only while `gate` is set, if there is one."""

    async def script(request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        for number in itertools.count():
            if gate is not None and number:
                await gate.wait()
            for index in range(request.num_sequences):
                await asyncio.sleep(0.001)
                yield SequenceDelta(
                    request_id=request.request_id, index=index, token_ids=ids_of("ab")
                )

    return script


def silent(request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
    """Never say anything."""

    async def script() -> AsyncGenerator[SequenceDelta, None]:
        await asyncio.Event().wait()
        yield SequenceDelta(request_id=request.request_id)

    return script()


def fail_after(error: Exception, *pieces: str) -> Script:
    """Say `pieces`, then raise."""

    async def script(request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        for piece in pieces:
            await asyncio.sleep(0)
            yield SequenceDelta(request_id=request.request_id, token_ids=ids_of(piece))
        raise error

    return script


class FakeEngine:
    """What the server sees of an engine; counts what it leaves open."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or speak("Hello", " wor", "ld")
        self.state = "loading"
        self.loading: EngineLoading | None = None
        self.stats: EngineStats | None = EngineStats(
            num_running=3, num_pages=10, num_pages_used=4, schedule_s=0.5, run_s=12.0
        )
        self.failure: LlmplugError | None = None
        self.requests: list[GenerateRequest] = []
        self.pooled: list[PoolRequest] = []
        self.task = "generate"
        self.num_labels = 1
        self.aborted: list[tuple[str, int | None]] = []
        self.num_open = 0
        self.has_request = asyncio.Event()
        self.may_be_ready = asyncio.Event()
        self.may_be_ready.set()
        self.is_stopped = False
        self.stalled_s = 0.0
        self.replicas: tuple[ReplicaState, ...] = ()

    async def start(self) -> None:
        self.loading = EngineLoading(stage="weights", done=1, total=4)

    async def wait_ready(self) -> EngineReady:
        await self.may_be_ready.wait()
        if self.failure is not None:
            self.state = "failed"
            raise self.failure
        self.state = "ready"
        return EngineReady(
            vocab_size=257, context_length=CONTEXT_LENGTH, num_pages=10, page_size=16, report={}
        )

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        self._check(request)
        self.requests.append(request)
        self.has_request.set()
        self.num_open += 1
        try:
            async for delta in self.script(request):
                yield delta
        finally:
            self.num_open -= 1

    async def pool(self, request: PoolRequest) -> PoolResult:
        """Numbers that tell of a text: its length, its sum, its first and its last token."""
        limits = PoolLimits(
            task="classify" if self.task == "classify" else "embed",
            vocab_size=257,
            max_tokens=CONTEXT_LENGTH,
            width=4,
            token_width=2,
        )
        check_pooling(request, limits)
        self.pooled.append(request)
        vectors = [[len(ids), sum(ids), ids[0], ids[-1]] for ids in request.prompts]
        if request.task == "classify":
            vectors = [[math.log(each[0]) for _ in range(self.num_labels)] for each in vectors]
        elif request.task == "token_embed":  # of each token: itself and its place
            vectors = [
                [x for place, i in enumerate(ids) for x in (i, place)] for ids in request.prompts
            ]
        elif request.is_normalised:
            vectors = [[x / math.hypot(*each) for x in each] for each in vectors]
        lengths = [len(each) for each in vectors]
        values = array("f", [x for each in vectors for x in each]).tobytes()
        return PoolResult(request_id=request.request_id, values=values, lengths=lengths)

    def _check(self, request: GenerateRequest) -> None:
        """The part of the limits that tests of the server need."""
        temperature = request.sampling.temperature
        if temperature is not None and not 0 <= temperature <= 2:
            raise InvalidRequest("temperature must be in [0, 2]", param="temperature")
        if request.num_sequences < 1:
            raise InvalidRequest("n must be at least 1", param="n")
        if request.sampling.max_tokens is not None and request.sampling.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1", param="max_tokens")
        if request.sampling.logprobs is not None and request.sampling.logprobs > 20:
            raise InvalidRequest("logprobs must be at most 20", param="logprobs")
        if len(request.prompt_ids) >= CONTEXT_LENGTH:
            raise ContextLengthExceeded("too long", param="prompt")

    async def abort(self, request_id: str, index: int | None = None) -> None:
        self.aborted.append((request_id, index))

    def dump_stacks(self) -> None:
        """Nothing to tell."""

    async def stop(self) -> None:
        self.is_stopped = True
        self.state = "dead"


class FakeRenderer:
    """Writes a conversation as JSON, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.variables = frozenset({"x"})
        self.for_tools = self
        self.prompt_end = ""
        self.shape = MessageShape(takes_tools=True, takes_tool_calls=True)

    def render(self, messages: list[dict[str, Any]], **options: Any) -> list[int]:
        options.pop("enough", None)  # it is for real prompts
        self.calls.append({"messages": messages, **options})
        return ids_of(json.dumps(messages))

    def render_prompt(self, messages: list[dict[str, Any]], **options: Any) -> ChatPrompt:
        return ChatPrompt(self.render(messages, **options), self.prompt_end)
