"""The models that are served, and the lives of their engines."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from llmplug.chat.bad_words import encode_bad_words
from llmplug.errors import InvalidRequest, LlmplugError, ModelNotFound, UnsupportedParameter
from llmplug.server.delivery import PLAIN, Delivery
from llmplug.server.engine_connection import MISTAKES, STALL_S
from llmplug.server.engine_metrics import EngineRow
from llmplug.server.generation import Echo, Generation
from llmplug.server.metrics import Metrics, ModelMetrics
from llmplug.server.observers import Observers
from llmplug.types import GenerateRequest, SamplingParams

if TYPE_CHECKING:
    from llmplug.server.admission import Ticket
    from llmplug.server.channel_text import Reading
    from llmplug.server.engine_connection import EngineConnection, ReplicaState
    from llmplug.server.missing_model import MissingModel
    from llmplug.server.model_service import ModelService
    from llmplug.server.trail import Trail
    from llmplug.specs import Task
    from llmplug.types import PoolRequest, ThinkingBudget

log = logging.getLogger("llmplug.server")

# Answers are kept track of before the engine's limits see a request.
MAX_CHOICES = 1024
TAKES_REQUESTS = ("ready", "asleep", "waking")  # states of an engine


class Service:
    """All models of one server."""

    def __init__(
        self,
        models: Sequence[ModelService],
        samplers: Sequence[Mapping[str, Any]] = (),
        missing: Sequence[MissingModel] = (),
    ) -> None:
        """Start nothing yet.

        Args:
            missing: models of the config that cannot be served.
            samplers: a description of each, in the order in which they run.
        """
        self.models = tuple(models)
        self.samplers = tuple(samplers)
        self.metrics = Metrics(self._read_engines)
        self._metrics = {model.name: self.metrics.for_model(model.name) for model in models}
        self.observers = Observers(self.metrics)
        for model in models:
            model.client.on_event = partial(self.observers.note_engine, model.name)
        self._by_name = _index(models)
        self._missing = {name: model for model in missing for name in (model.name, *model.aliases)}
        self._starts: list[asyncio.Task[None]] = []

    def replace(self, models: Sequence[ModelService]) -> None:
        """Serve these in place of the models of the same names; from any thread."""
        before, by_name = {model.name: model for model in self.models}, _index(models)
        self.models, self._by_name = tuple(models), by_name
        for model in models:  # an engine may have come up since they were made
            model.ready = model.ready or before[model.name].ready

    def find(self, name: str) -> ModelService:
        """Look a model up by name or alias.

        Raises:
            ModelNotFound: there is none.
            EngineUnavailable: there should be one, and its files could not be read.
        """
        model = self._by_name.get(name)
        if model is None and name in self._missing:
            raise self._missing[name].refuse()
        if model is None:
            raise ModelNotFound(
                f"The model {name[:100]!r} does not exist. Served here: "
                f"{', '.join(each.name for each in self.models)}.",
                param="model",
            )
        return model

    def find_for(self, fields: Mapping[str, Any], *tasks: Task) -> ModelService:
        """Look up the model that a request's fields name.

        Args:
            tasks: what the endpoint has models for; none: to generate.
        Raises:
            InvalidRequest: they name none.
            ModelNotFound: they name one that is not served.
            UnsupportedParameter: the model is for something else.
        """
        name = fields.get("model")
        if name is None:
            raise InvalidRequest(
                "'model' is required.", param="model", code="missing_required_parameter"
            )
        if not isinstance(name, str):
            raise InvalidRequest("'model' must be a string.", param="model", code="invalid_type")
        model = self.find(name)
        served = tasks or ("generate",)
        if model.task not in served:
            raise UnsupportedParameter(
                f"The model '{model.name}' is made to {model.task}, and this endpoint is for "
                f"models that {' or '.join(served)}.",
                param="model",
            )
        return model

    async def pool(
        self, model: ModelService, request: PoolRequest, trail: Trail
    ) -> list[memoryview[float]]:
        """Have vectors made of texts: float32, one of each, in their order, flat.

        Raises:
            LlmplugError: the request was refused, or failed.
        """
        trail.prompt_lengths = [len(prompt) for prompt in request.prompts]
        trail.usage.prompt_tokens = sum(trail.prompt_lengths)
        with self.observers.watch(trail):
            result = await model.client.pool(request)
        numbers = memoryview(result.values).cast("f")
        ends = list(accumulate(result.lengths))
        return [numbers[end - size : end] for end, size in zip(ends, result.lengths, strict=True)]

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
        delivery: Delivery = PLAIN,
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
        sampling = encode_bad_words(sampling, model.tokenizer)
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
        trail = replace(
            ticket.trail,
            model=model.name,
            prompt_lengths=[len(ids) for ids in prompts],
            num_sequences=num_sequences,
            sampling=sampling,
            has_grammar=bool(grammar),
            finish_reasons=[],
        )
        return Generation(
            model.client,
            model.tokenizer,
            requests,
            ticket=ticket,
            metrics=self._metrics[model.name],
            trail=trail,
            observers=self.observers,
            continues_text=continues_text,
            echoes=echoes,
            is_scoring=is_scoring,
            reading=reading,
            delivery=delivery,
        )

    def metrics_of(self, model: ModelService) -> ModelMetrics:
        """The metrics that this model's requests write."""
        return self._metrics[model.name]

    def start(self) -> None:
        """Start every engine in the background."""
        self._starts = [asyncio.create_task(self._start(model)) for model in self.models]

    async def wait_started(self) -> None:
        """Wait until every engine has come up, or failed to."""
        await asyncio.gather(*self._starts, return_exceptions=True)

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
        for model in self.models:
            if model.grammars is not None:
                await model.grammars.stop()
        outcomes = await asyncio.gather(
            *(model.client.stop() for model in self.models), return_exceptions=True
        )
        for model, outcome in zip(self.models, outcomes, strict=True):
            if isinstance(outcome, Exception):
                log.error("stopping the engine of %s failed", model.name, exc_info=outcome)

    def describe_state(self) -> list[dict[str, Any]]:
        """Say for each model whether it is ready, and if not, why."""
        missing = [{"model": each.name, "state": each.state} for each in self._list_missing()]
        return [_describe_state(model) for model in self.models] + missing

    def list_cards(self) -> list[dict[str, Any]]:
        """Describe each model of the config as OpenAI's model object."""
        missing = [each.card() for each in self._list_missing()]
        return [model.card() for model in self.models] + missing

    def find_card(self, name: str) -> dict[str, Any]:
        """Describe one model, by name or alias.

        Raises:
            ModelNotFound: there is none.
        """
        return (self._missing.get(name) or self.find(name)).card()

    def _list_missing(self) -> list[MissingModel]:
        return list(dict.fromkeys(self._missing.values()))

    @property
    def is_ready(self) -> bool:
        """Whether a client finds what it can expect to find.

        One model at least takes requests, none is on its first way up, and none stands still. A
        model that is gone does not take the others along.
        """
        states = [model.client.state for model in self.models]
        is_starting = any(
            state == "loading" and model.ready is None
            for state, model in zip(states, self.models, strict=True)
        )
        is_stalled = any(model.client.stalled_s >= STALL_S for model in self.models)
        return not (is_starting or is_stalled) and any(state in TAKES_REQUESTS for state in states)

    def find_stalls(self) -> list[str]:
        """Say which engines have work and take no step; from any thread."""
        return [
            f"{engine} has taken no step for {stalled_s:.0f} s"
            for model in self.models
            for engine, stalled_s in _list_engines(model)
            if stalled_s >= STALL_S
        ]

    def dump_engine_stacks(self) -> None:
        """Have every engine process write its stacks to stderr; from any thread."""
        for model in self.models:
            model.client.dump_stacks()

    async def _start(self, model: ModelService) -> None:
        try:
            await model.client.start()
            ready = await model.client.wait_ready()
        except LlmplugError as error:
            log.error("the engine of %s cannot start: %s", model.name, error)
            raise
        # Of the model as it is served now: a reload may have put another in its place.
        self.find(model.name).ready = ready
        for topic, chosen in ready.report.get("choices", ()):
            log.info("%s: %s: %s", model.name, topic, chosen)
        log.info("%s is ready%s", model.name, _describe_seconds(ready.report.get("seconds", {})))
        if model.grammars is not None:
            await model.grammars.start()

    def _read_engines(self) -> Iterator[EngineRow]:
        for model in self.models:
            client = model.client
            stalled_s = max(each for _, each in _list_engines(model))
            yield EngineRow(
                model.name, _is_working(model), stalled_s, client.stats, tuple(client.replicas)
            )


def _index(models: Sequence[ModelService]) -> dict[str, ModelService]:
    return {name: model for model in models for name in (model.name, *model.aliases)}


def _describe_seconds(seconds: Mapping[str, float]) -> str:
    """Say how long a start took, by stage: ` in 2.4 s: imports 1.9, weights 0.3`."""
    if not seconds:
        return ""
    stages = ", ".join(f"{stage} {took:.1f}" for stage, took in seconds.items() if took >= 0.05)
    return f" in {sum(seconds.values()):.1f} s" + (f": {stages}" if stages else "")


def _is_working(model: ModelService) -> bool:
    return model.client.state == "ready" and model.client.stalled_s < STALL_S


def _list_engines(model: ModelService) -> list[tuple[str, float]]:
    """Name the engines of a model, each with the seconds that it has stood still."""
    replicas = model.client.replicas
    if not replicas:
        return [(f"the engine of {model.name}", model.client.stalled_s)]
    return [(f"replica {each.number} of {model.name}", each.stalled_s) for each in replicas]


def _describe_state(model: ModelService) -> dict[str, Any]:
    client = model.client
    state: dict[str, Any] = {"model": model.name, **_describe_engine(client)}
    if model.dialect.problems:
        state["warnings"] = list(model.dialect.problems)
    if client.replicas:
        each = [{"replica": one.number, **_describe_engine(one)} for one in client.replicas]
        state["num_ready"] = sum(one["state"] == "ready" for one in each)
        state["replicas"] = each
    return state


def _describe_engine(engine: EngineConnection | ReplicaState) -> dict[str, Any]:
    state: dict[str, Any] = {"state": engine.state}
    loading = engine.loading
    if engine.state in ("loading", "waking") and loading is not None:
        state["stage"] = loading.stage
        state["done"] = loading.done
        state["total"] = loading.total
    if engine.stalled_s >= STALL_S:
        state["state"] = "stalled"
        state["stalled_s"] = round(engine.stalled_s, 1)
    return state
