"""Offline use from Python, on the same engine that the server runs.

from llmplug import LLM, SamplingParams

with LLM("config/mine.yaml") as llm:
    for answer in llm.generate(["Once upon a time"], SamplingParams(max_tokens=32)):
        print(answer.text)

A model that reads texts whole has `embed` instead of `generate` and `chat`.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from llmplug import assemble
from llmplug.build import build_engine
from llmplug.chat.bad_words import encode_bad_words
from llmplug.chat.detokenize import Detokenizer
from llmplug.chat.stop_strings import StopResult, StopStrings
from llmplug.config import Config, load
from llmplug.engine.pool_limits import MAX_TEXTS
from llmplug.errors import ConfigError, InvalidRequest, from_wire
from llmplug.types import FinishReason, GenerateRequest, PoolRequest, SamplingParams

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmplug.engine.engine import Engine
    from llmplug.engine.pooling import PoolingEngine
    from llmplug.specs import Progress
    from llmplug.types import SequenceDelta, TokenLogprob

Prompt = str | Sequence[int]


@dataclass(slots=True, kw_only=True)
class Completion:
    """One answer to one prompt.

    Attributes:
        prompt_ids: what the model read.
        index: which of the `n` answers to this prompt.
        token_ids: all that were generated, the id that ended the answer included.
        stop: the stop string or token id that ended it, if one did.
    """

    prompt_ids: list[int]
    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None  # one per token id, if asked
    prompt_logprobs: list[TokenLogprob | None] | None = None  # one per prompt id, if asked
    finish_reason: FinishReason | None = None
    stop: str | int | None = None


class LLM:
    """One model of a config, in this process. Not safe to use from several threads at once.

    Args:
        config: path of a YAML file, or a Config.
        model: name of the model, where the config has several.
        progress: told of downloads and weight loading; None: bars on the terminal.

    Raises:
        ConfigError, PluginError, SourceError, CheckpointError: as `llmplug serve` would.
    """

    def __init__(
        self,
        config: str | Path | Config,
        *,
        model: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        from llmplug.cli.terminal import TerminalProgress

        self._config = config if isinstance(config, Config) else load(config)
        self._progress = TerminalProgress() if progress is None else progress
        registry = assemble.load_registry(self._config)
        chosen = _choose_model(self._config, model)
        plan = assemble.plan_model(chosen, registry, self._progress)
        if plan.settings.inter_token_ms is None:  # nobody reads along: steps as full as they can be
            settings = replace(plan.settings, inter_token_ms=math.inf)
            plan = replace(plan, settings=settings)
        self.plan = plan
        self._engine = build_engine(self.plan, registry, self._progress)
        self.tokenizer = self.plan.tokenizer

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        n: int = 1,
    ) -> list[Completion]:
        """Answer all prompts in one batch.

        Args:
            prompts: text (control tokens in it are recognised), token ids, or a list of either.
            params: for all prompts.
            n: answers to each prompt.

        Returns:
            The answers in the order of the prompts, `n` for each.

        Raises:
            InvalidRequest: a prompt or a parameter is wrong; nothing is generated then.
        """
        ids = [self._to_ids(prompt) for prompt in _as_list(prompts)]
        return self._run(ids, params or SamplingParams(), n, continues_text=True)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        n: int = 1,
    ) -> list[Completion]:
        """Answer one conversation; text in messages never becomes a control token.

        Raises:
            InvalidRequest: the model has no chat template, or it refuses the messages.
        """
        if self.plan.renderer is None:
            raise InvalidRequest(f"{self.plan.name} has no chat template; use generate()")
        ids = self.plan.renderer.render([dict(message) for message in messages])
        return self._run([ids], params or SamplingParams(), n, continues_text=False)

    def embed(
        self,
        texts: Prompt | Sequence[Prompt],
        *,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        is_normalised: bool | None = None,
        is_cut: bool = False,
    ) -> NDArray[np.float32]:
        """Make a vector of each text.

        Args:
            texts: what they spell stays text; or token ids, which are read as they are.
            prompt_name: of the checkpoint's prompts, put before each text; None: its default.
            dimensions: numbers to keep of each vector; None: all.
            is_normalised: whether vectors have length 1; None: as the checkpoint says.
            is_cut: texts that are too long lose their end; else they are refused.

        Returns:
            vectors_ND, in the order of the texts.

        Raises:
            InvalidRequest: a text is wrong, or the model does not embed; nothing is read then.
        """
        from llmplug.engine.pooling import PoolingEngine

        engine, pooling = self._engine, self.plan.pooling
        if not isinstance(engine, PoolingEngine) or pooling is None:
            raise InvalidRequest(f"{self.plan.name} generates; see `task` of its config")
        prompt = pooling.find_prompt(prompt_name)
        most = engine.limits.max_tokens if is_cut else None
        prompts = [
            self.tokenizer.encode_within(prompt + text, most)
            if isinstance(text, str)
            else self._to_ids(text)[:most]
            for text in _as_list(texts)
        ]
        requests = [
            PoolRequest(
                request_id=f"llm-{secrets.token_hex(8)}",
                prompts=prompts[start : start + MAX_TEXTS],
                is_normalised=is_normalised,
                dimensions=dimensions,
            )
            for start in range(0, len(prompts), MAX_TEXTS)
        ]
        values = self._pool(engine, requests)
        width = dimensions or engine.limits.width
        return np.frombuffer(b"".join(values), "<f4").reshape(len(prompts), width)

    def close(self) -> None:
        """Give the memory of weights and cache back."""
        del self._engine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _to_ids(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if isinstance(prompt, Sequence):
            return list(prompt)
        raise InvalidRequest("a prompt is a text or a list of token ids", param="prompt")

    def _pool(self, engine: PoolingEngine, requests: Sequence[PoolRequest]) -> list[bytes]:
        """Return what each request's vectors are."""
        values: dict[str, bytes] = {}
        try:
            for request in requests:
                engine.add(request)
            while engine.has_work:
                for result in engine.step().results:
                    if result.error is not None:
                        raise from_wire(result.error)
                    values[result.request_id] = result.values
                self._progress("embedding", len(values), len(requests))
        finally:
            for request in requests:
                engine.abort(request.request_id)
        return [values[request.request_id] for request in requests]

    def _run(
        self,
        prompts: Sequence[list[int]],
        params: SamplingParams,
        n: int,
        *,
        continues_text: bool,
    ) -> list[Completion]:
        engine = self._engine_that_generates()
        answers: dict[tuple[str, int], _Answer] = {}
        params = encode_bad_words(params, self.tokenizer)
        ids = [f"llm-{secrets.token_hex(8)}" for _ in prompts]
        try:
            for request_id, prompt_ids in zip(ids, prompts, strict=True):
                engine.add(
                    GenerateRequest(
                        request_id=request_id,
                        prompt_ids=prompt_ids,
                        sampling=params,
                        num_sequences=n,
                    )
                )
                for index in range(n):
                    answers[request_id, index] = _Answer(
                        Completion(prompt_ids=prompt_ids, index=index),
                        params,
                        Detokenizer(
                            self.tokenizer,
                            skip_special_tokens=params.skip_special_tokens,
                            keep_leading_space=continues_text,
                        ),
                    )
            self._drain(engine, answers)
        finally:
            for request_id in ids:
                engine.abort(request_id)
        return [answer.completion for answer in answers.values()]

    def _engine_that_generates(self) -> Engine:
        from llmplug.engine.engine import Engine

        if not isinstance(self._engine, Engine):
            raise InvalidRequest(f"{self.plan.name} reads texts whole and generates none")
        return self._engine

    def _drain(self, engine: Engine, answers: Mapping[tuple[str, int], _Answer]) -> None:
        done = 0
        while engine.has_work:
            for delta in engine.step().deltas:
                answer = answers.get((delta.request_id, delta.index))
                # The engine still tells the end of what we aborted, in an earlier call too.
                if answer is None or answer.is_done:
                    continue
                answer.feed(delta)
                if answer.is_done:
                    done += 1
                    self._progress("generating", done, len(answers))
                    engine.abort(delta.request_id, delta.index)


class _Answer:
    """Puts one answer together from the deltas of the engine."""

    def __init__(
        self, completion: Completion, params: SamplingParams, detokenizer: Detokenizer
    ) -> None:
        self.completion = completion
        self._params = params
        self._detokenizer = detokenizer
        self._stops = StopStrings(params.stop, params.include_stop_str_in_output)

    @property
    def is_done(self) -> bool:
        return self.completion.finish_reason is not None

    def feed(self, delta: SequenceDelta) -> None:
        """Add a delta; raises what went wrong with this row in the engine."""
        if delta.error is not None:
            raise from_wire(delta.error)
        answer = self.completion
        answer.token_ids += delta.token_ids
        answer.prompt_logprobs = answer.prompt_logprobs or delta.prompt_logprobs
        if delta.logprobs is not None:
            answer.logprobs = (answer.logprobs or []) + delta.logprobs
        text = self._detokenizer.feed(self._visible_ids(delta))
        if delta.finish_reason is not None:
            text += self._detokenizer.finish()
        # A step gives one token, so that this counts the text's own tokens.
        if len(answer.token_ids) < self._params.min_tokens:
            found = StopResult(text, None)
        else:
            found = self._stops.feed(text)
        answer.text += found.text
        if found.matched is not None:
            answer.finish_reason, answer.stop = FinishReason.STOP, found.matched
        elif delta.finish_reason is not None:
            answer.text += self._stops.finish()
            answer.finish_reason, answer.stop = delta.finish_reason, delta.stop_token_id

    def _visible_ids(self, delta: SequenceDelta) -> list[int]:
        """Drop the id that ended the answer: it is no part of its text."""
        if delta.stop_token_id is None or self._params.include_stop_str_in_output:
            return delta.token_ids
        return delta.token_ids[:-1]


def _choose_model(config: Config, name: str | None) -> Any:
    names = [model.name for model in config.models]
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        raise ConfigError(f"name one of the config's models: {', '.join(names)}")
    chosen = config.models[names.index(name)]
    if chosen.replicas > 1:
        raise ConfigError("replicas: they are processes of a server; here it must be 1")
    return chosen


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Turn one prompt into a list of one: a text, or a sequence that starts with no sequence."""
    if isinstance(prompts, str):
        return [prompts]
    items: list[Any] = list(prompts)
    return [items] if items and not isinstance(items[0], Sequence) else items
