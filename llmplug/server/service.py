"""The models that are served: the only place that ties text to an engine."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from llmplug import __version__
from llmplug.chat.channels import Dialect
from llmplug.chat.detokenize import Detokenizer
from llmplug.chat.marker_tokens import find_marker_ids
from llmplug.chat.render import ChatPrompt
from llmplug.chat.tool_text import find_json_calls, put_tools_in_text
from llmplug.errors import (
    ConfigError,
    InvalidRequest,
    KernelInputError,
    LlmplugError,
    ModelNotFound,
    PluginError,
)
from llmplug.server.generation import Echo, Generation
from llmplug.server.metrics import Metrics, ModelMetrics
from llmplug.types import (
    EngineLoading,
    EngineReady,
    EngineStats,
    GenerateRequest,
    SamplingParams,
    SequenceDelta,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmplug.chat.render import ChatRenderer
    from llmplug.chat.tokenizer import Tokenizer
    from llmplug.grammar import Node
    from llmplug.server.admission import Ticket
    from llmplug.server.channel_text import Reading
    from llmplug.server.schema.prompts import Prompt
    from llmplug.types import ThinkingBudget

log = logging.getLogger("llmplug.server")

# Below this, tokenising is quicker than handing it to a thread.
INLINE_CHARS = 2048
# Answers are kept track of before the engine's limits see a request.
MAX_CHOICES = 1024
# Work exists and no step has ended: no step that makes sense takes so long, on any device.
STALL_S = 60.0
# An engine that cannot start for one of these would not start tomorrow either: it is the config
# that must change, and a server that runs without the model would hide that.
MISTAKES = (ConfigError, PluginError, KernelInputError)

Result = TypeVar("Result")


class EngineConnection(Protocol):
    """What the server needs of `llmplug.engine.client.EngineClient`."""

    @property
    def state(self) -> str:
        """`loading`, `ready`, `failed` or `dead`."""

    @property
    def loading(self) -> EngineLoading | None:
        """The last progress while it loads."""

    @property
    def stats(self) -> EngineStats | None:
        """Gauges and counters of the last step."""

    @property
    def failure(self) -> Exception | None:
        """Why it failed or died."""

    @property
    def stalled_s(self) -> float:
        """Seconds since its last step, while there is work for it; else 0."""

    async def start(self) -> None:
        """Start the engine's process."""

    async def wait_ready(self) -> EngineReady:
        """Wait until it holds its weights. Raises why it cannot."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        """Run one request; closing the iterator aborts it."""

    async def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one of its sequences."""

    async def stop(self) -> None:
        """Stop the engine's process."""


class GrammarCheck(Protocol):
    """Finds out whether the engine will be able to follow a grammar, away from the engine."""

    async def check(self, node: Node, param: str) -> None:
        """Compile a tree under a budget. Raises GrammarError with this `param` if that fails."""


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
    ) -> None:
        self.name = name
        self.aliases = tuple(aliases)
        self.tokenizer = tokenizer
        self.client = client
        self.sampler_fields = frozenset(sampler_fields)
        self.created = int(time.time()) if created is None else created
        self.ready: EngineReady | None = None
        self.dialect = dialect or Dialect()
        self.grammars = grammars
        # Rendering the head of an answer apart costs as much again: only where it can matter.
        self._reads_head = self.dialect.reasoning is not None or (
            self.dialect.tools is not None and self.dialect.tools.make is not None
        )
        self._json_calls = find_json_calls(self.dialect.tools)
        self._reasoning_ids = find_marker_ids(tokenizer, self.dialect.reasoning)
        self._call_ids = find_marker_ids(tokenizer, self.dialect.tools)
        self._renderer = renderer
        self._details = dict(details or {})

    @property
    def fingerprint(self) -> str:
        """Changes when what computes the answers changes."""
        report = repr(sorted(self._details.items())) if self._details else ""
        digest = hashlib.sha256(f"{__version__}/{self.name}/{report}".encode()).hexdigest()
        return f"llmplug-{__version__}-{digest[:8]}"

    def card(self) -> dict[str, Any]:
        """OpenAI's model object."""
        card = {"id": self.name, "object": "model", "created": self.created, "owned_by": "llmplug"}
        if self.ready is not None:
            card["max_model_len"] = self.ready.context_length
        return {**card, **self._details}

    @property
    def template_variables(self) -> frozenset[str]:
        """What requests may set in the chat template."""
        return frozenset(self._renderer.variables if self._renderer else ())

    def marker_ids(self, *, reads_calls: bool) -> frozenset[int]:
        """Special tokens that markers are made of, those of calls only where they are read."""
        return self._reasoning_ids | self._call_ids if reads_calls else self._reasoning_ids

    async def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool,
        tools: Sequence[Mapping[str, Any]],
        template_kwargs: dict[str, Any] | None,
    ) -> ChatPrompt:
        """Turn a conversation into the ids of a prompt.

        Raises:
            InvalidRequest: the model has no chat template, or it refuses these messages.
        """
        renderer = self._renderer
        if renderer is None:
            raise InvalidRequest(
                f"The model '{self.name}' has no chat template. Use /v1/completions, or set "
                "'chat_template' in its config.",
                param="model",
            )
        shown, told = messages, tools
        if self._json_calls is not None:
            shown, told = put_tools_in_text(messages, tools, self._json_calls, renderer.shape)
        render = renderer.render_prompt if self._reads_head else renderer.render
        prompt = await _run(
            _count_chars(shown) + _count_chars(told),
            lambda: render(
                shown,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=told or None,
                template_kwargs=template_kwargs,
            ),
        )
        return prompt if isinstance(prompt, ChatPrompt) else ChatPrompt(prompt, "")

    async def encode(self, prompt: Prompt, *, add_special_tokens: bool) -> list[int]:
        """Turn a prompt of any kind into ids."""
        if isinstance(prompt, list):
            return prompt
        tokenizer = self.tokenizer
        return await _run(
            len(prompt), lambda: tokenizer.encode(prompt, add_special_tokens=add_special_tokens)
        )

    async def echo(self, prompt: Prompt, ids: list[int], *, has_offsets: bool) -> Echo:
        """Prepare the repetition of a prompt, with its tokens' places if they are asked for."""
        return await _run(
            len(ids), lambda: _make_echo(self.tokenizer, prompt, ids, has_offsets=has_offsets)
        )


class Service:
    """All models of one server."""

    def __init__(self, models: Sequence[ModelService]) -> None:
        self.models = tuple(models)
        self.metrics = Metrics(self._read_stats)
        self._metrics = {model.name: self.metrics.for_model(model.name) for model in models}
        self._by_name = {name: model for model in models for name in (model.name, *model.aliases)}
        self._starts: list[asyncio.Task[None]] = []

    def find(self, name: str) -> ModelService:
        """Look a model up by name or alias.

        Raises:
            ModelNotFound: there is none.
        """
        model = self._by_name.get(name)
        if model is None:
            raise ModelNotFound(
                f"The model {name[:100]!r} does not exist. Served here: "
                f"{', '.join(each.name for each in self.models)}.",
                param="model",
            )
        return model

    def find_for(self, fields: Mapping[str, Any]) -> ModelService:
        """Look up the model that a request's fields name.

        Raises:
            InvalidRequest: they name none.
            ModelNotFound: they name one that is not served.
        """
        name = fields.get("model")
        if name is None:
            raise InvalidRequest(
                "'model' is required.", param="model", code="missing_required_parameter"
            )
        if not isinstance(name, str):
            raise InvalidRequest("'model' must be a string.", param="model", code="invalid_type")
        return self.find(name)

    def generate(
        self,
        model: ModelService,
        prompts: Sequence[list[int]],
        sampling: SamplingParams,
        ticket: Ticket,
        *,
        num_sequences: int = 1,
        priority: int = 0,
        cache_salt: str = "",
        tenant: str = "",
        continues_text: bool = False,
        echoes: Sequence[Echo] = (),
        is_scoring: bool = False,
        grammar: bytes = b"",
        thinking: ThinkingBudget | None = None,
        reading: Reading | None = None,
    ) -> Generation:
        """Make the generation that answers `prompts`; nothing runs before its deltas are read.

        Raises:
            InvalidRequest: more answers are asked for than one request may have.
        """
        num_choices = len(prompts) * num_sequences
        if num_choices > MAX_CHOICES:
            raise InvalidRequest(
                f"'n' asks for {len(prompts)} x {num_sequences} answers; at most {MAX_CHOICES} "
                "are given to one request.",
                param="n",
            )
        requests = [
            GenerateRequest(
                request_id=uuid.uuid4().hex,
                prompt_ids=ids,
                sampling=sampling,
                num_sequences=num_sequences,
                priority=priority,
                cache_salt=cache_salt,
                tenant=tenant,
                grammar=grammar,
                thinking=thinking,
            )
            for ids in prompts
        ]
        return Generation(
            model.client,
            model.tokenizer,
            requests,
            ticket=ticket,
            metrics=self._metrics[model.name],
            continues_text=continues_text,
            echoes=echoes,
            is_scoring=is_scoring,
            reading=reading,
        )

    def metrics_of(self, model: ModelService) -> ModelMetrics:
        """The metrics that this model's requests write."""
        return self._metrics[model.name]

    def start(self) -> None:
        """Start every engine in the background."""
        self._starts = [asyncio.create_task(_start(model)) for model in self.models]

    async def wait_failed(self) -> Exception:
        """Return a failure that leaves nothing to serve, or says that the config is wrong."""
        failures: list[Exception] = []
        for start in asyncio.as_completed(self._starts):
            try:
                await start
            except MISTAKES as error:
                return error
            except Exception as error:  # noqa: BLE001 - told by `_start`; the others may serve
                failures.append(error)
        if len(failures) == len(self.models):
            return failures[0]
        never: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        return await never

    async def stop(self) -> None:
        """Stop every engine."""
        for task in self._starts:
            task.cancel()
        await asyncio.gather(*self._starts, return_exceptions=True)
        outcomes = await asyncio.gather(
            *(model.client.stop() for model in self.models), return_exceptions=True
        )
        for model, outcome in zip(self.models, outcomes, strict=True):
            if isinstance(outcome, Exception):
                log.error("stopping the engine of %s failed", model.name, exc_info=outcome)

    def describe_state(self) -> list[dict[str, Any]]:
        """Say for each model whether it is ready, and if not, why."""
        return [_describe_state(model) for model in self.models]

    @property
    def is_ready(self) -> bool:
        """Whether every model takes requests, and works on those that it took."""
        return all(_is_working(model) for model in self.models)

    def _read_stats(self) -> Iterator[tuple[str, bool, EngineStats | None]]:
        for model in self.models:
            yield model.name, _is_working(model), model.client.stats


async def _start(model: ModelService) -> None:
    try:
        await model.client.start()
        model.ready = await model.client.wait_ready()
    except LlmplugError as error:
        log.error("the engine of %s cannot start: %s", model.name, error)
        raise
    report = model.ready.report
    for topic, chosen in report.get("choices", ()):
        log.info("%s: %s: %s", model.name, topic, chosen)
    log.info("%s is ready%s", model.name, _describe_seconds(report.get("seconds", {})))


def _describe_seconds(seconds: Mapping[str, float]) -> str:
    """Say how long a start took, by stage: ` in 2.4 s: imports 1.9, weights 0.3`."""
    if not seconds:
        return ""
    stages = ", ".join(f"{stage} {took:.1f}" for stage, took in seconds.items() if took >= 0.05)
    return f" in {sum(seconds.values()):.1f} s" + (f": {stages}" if stages else "")


def _is_working(model: ModelService) -> bool:
    return model.client.state == "ready" and model.client.stalled_s < STALL_S


def _describe_state(model: ModelService) -> dict[str, Any]:
    state: dict[str, Any] = {"model": model.name, "state": model.client.state}
    loading = model.client.loading
    if model.client.state == "loading" and loading is not None:
        state["stage"] = loading.stage
        state["done"] = loading.done
        state["total"] = loading.total
    if model.client.stalled_s >= STALL_S:
        state["state"] = "stalled"
        state["stalled_s"] = round(model.client.stalled_s, 1)
    return state


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
    return sum(len(value) if isinstance(value, str) else 0 for value in _walk(values))


def _walk(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _walk(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _walk(each)
    else:
        yield value
