"""Values that cross rooms and processes: requests in, token deltas out.

Everything here is a msgspec struct of plain fields, so that it travels over the engine's socket
as it is. Nothing here imports torch.
"""

from __future__ import annotations

import enum
from typing import Any, Literal

import msgspec

from llmplug.errors import WireError


class FinishReason(enum.StrEnum):
    """Why a sequence ended."""

    STOP = "stop"  # end-of-sequence id, stop token id or stop string
    LENGTH = "length"  # max_tokens or the context is used up
    ABORT = "abort"  # the caller went away
    ERROR = "error"  # this row failed; the batch went on


class BeamParams(msgspec.Struct, frozen=True, kw_only=True):
    """A search for the likeliest answers, `width` beams at a time, in place of drawing tokens."""

    width: int
    length_penalty: float = 1.0  # an answer's score is its log-probability / length ^ this
    # True: over when there are `width` answers. False: when no beam, ended now, would be better.
    # "never": when none could become better; of a positive penalty, at full length.
    early_stopping: bool | str = False


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one request's tokens are chosen and when generation stops.

    `None` means "not said": the model's `generation_config.json` decides, then the neutral value
    in the comment. `engine.limits` checks the ranges, once, behind every frontend.
    """

    temperature: float | None = None  # 1.0; 0 is greedy
    top_p: float | None = None  # 1.0, (0, 1]
    top_k: int | None = None  # 0 is off
    min_p: float | None = None  # 0.0, [0, 1]
    presence_penalty: float | None = None  # 0.0, [-2, 2]
    frequency_penalty: float | None = None  # 0.0, [-2, 2]
    repetition_penalty: float | None = None  # 1.0, > 0
    logit_bias: dict[int, float] = {}  # token id -> added to its logit, [-100, 100]
    seed: int | None = None  # int64; None draws one
    max_tokens: int | None = None  # None: what is left of the context
    min_tokens: int = 0  # end-of-sequence and stops are held back until then
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None  # alternatives per generated token; 0: the chosen one only
    prompt_logprobs: int | None = None  # the same for each prompt token but the first
    skip_special_tokens: bool = True
    extra: dict[str, Any] = {}  # parameters of samplers that the core does not know, by field name
    # Which samplers run, in this order: names, or {"name": ..., and fields of its own}. None: all,
    # by stage.
    samplers: tuple[str | dict[str, Any], ...] | None = None
    allowed_token_ids: tuple[int, ...] = ()  # no others are chosen; empty: all are allowed
    # What the output does not hold; the engine wants sequences of tokens, who knows a tokenizer
    # makes them of texts.
    bad_words: tuple[str | tuple[int, ...], ...] = ()
    beams: BeamParams | None = None  # None: tokens are chosen one by one


class ThinkingBudget(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that an answer may think for; then the engine writes the end marker itself.

    `engine.limits` cuts it so that `SamplingParams.max_tokens` leaves room for an answer.
    """

    max_tokens: int  # >= 0; of all blocks of thinking together, markers not counted
    start_ids: tuple[int, ...] = ()  # tokens that open a block
    end_ids: tuple[int, ...]  # tokens that close it; the first is the one to be written
    is_open: bool  # an answer begins within a block


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt for the engine; `num_sequences` answers to it.

    Chat, completions and the Python API all become this type.
    """

    request_id: str  # unique, made by us, never by a client
    prompt_ids: list[int]
    sampling: SamplingParams
    num_sequences: int = 1
    priority: int = 0  # lower runs earlier
    cache_salt: str = ""  # prefixes are shared only between equal salts
    tenant: str = ""  # for whom: within a priority, the tenant served least goes first
    grammar: bytes = b""  # a tree of `llmplug.grammar`, encoded; empty: none
    thinking: ThinkingBudget | None = None  # None: without end


class PoolRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Texts for an engine that makes a vector of each: an embedding, or scores of labels."""

    request_id: str  # unique, made by us, never by a client
    prompts: list[list[int]]
    type_ids: list[list[int]] = []  # of each prompt's tokens; empty: all of the first segment
    task: Literal["embed", "classify", "token_embed"] = "embed"
    is_normalised: bool | None = None  # None: as the model is made for
    dimensions: int | None = None  # keep so many of each vector's, and normalise again; None: all
    priority: int = 0  # lower runs earlier
    tenant: str = ""


class PoolResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The vectors of a request, in its order, or why there are none."""

    request_id: str
    values: bytes = b""  # float32, little-endian, one vector behind the other
    lengths: list[int] = []  # numbers of each text's; `token_embed`: tokens times width
    error: WireError | None = None


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities at one position, natural log, of the model's raw distribution."""

    token_id: int
    logprob: float  # finite; impossible tokens are clamped to -9999.0
    rank: int  # 1 is the most probable
    top: list[tuple[int, float]]  # (token id, logprob), most probable first


class SequenceDelta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one step added to one sequence; the last one has a finish reason.

    `token_ids` are all the tokens that the model generated, so that their number is what usage
    counts. An end-of-sequence id or stop token id is among them, as the last, and is repeated in
    `stop_token_id`: whoever makes text of the ids leaves it out.
    """

    request_id: str
    index: int = 0  # which of num_sequences
    token_ids: list[int] = []
    logprobs: list[TokenLogprob] | None = None  # one per token id, if asked
    prompt_logprobs: list[TokenLogprob | None] | None = None  # with the first delta, if asked
    num_cached_tokens: int = 0  # prompt tokens found in the prefix cache; with the first delta
    queue_s: float = 0.0  # that it waited for its first step; with the first delta
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None  # the id that stopped it, if one did
    error: WireError | None = None


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Gauges and counters after a step; counters grow from the engine's start."""

    num_running: int = 0
    num_waiting: int = 0
    num_pages_used: int = 0
    num_pages: int = 0
    num_steps: int = 0
    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_cached_tokens: int = 0  # prompt tokens served from the prefix cache
    schedule_s: float = 0.0  # seconds of all steps, by the phases of the loop
    run_s: float = 0.0
    sample_s: float = 0.0
    record_s: float = 0.0


class StepOutput(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """One message per step, for the whole batch."""

    deltas: list[SequenceDelta]
    stats: EngineStats


class EngineReady(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The engine holds its weights and takes requests."""

    vocab_size: int  # width of the logits: the one limit of every token id
    context_length: int  # prompt + generated tokens of one sequence
    num_pages: int
    page_size: int
    report: dict[str, Any]  # choices made, seconds spent, bytes held; printable
    task: Literal["generate", "embed", "classify"] = "generate"
    width: int = 0  # numbers of an embedding
    token_width: int = 0  # of the vector of one token


class EngineLoading(msgspec.Struct, frozen=True, kw_only=True, tag="loading"):
    """Progress of the start, for the bar and for /ready."""

    stage: str
    done: int
    total: int


class EngineFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The engine cannot start; the process exits after this."""

    error: WireError


class PoolOutput(msgspec.Struct, frozen=True, kw_only=True, tag="pooled"):
    """What a step finished, of an engine that pools."""

    results: list[PoolResult]
    stats: EngineStats


EngineMessage = StepOutput | PoolOutput | EngineReady | EngineLoading | EngineFailed


class AddRequest(msgspec.Struct, frozen=True, kw_only=True, tag="add"):
    """Ask the engine to generate."""

    request: GenerateRequest


class AddPooling(msgspec.Struct, frozen=True, kw_only=True, tag="pool"):
    """Ask the engine for vectors."""

    request: PoolRequest


class AbortRequest(msgspec.Struct, frozen=True, kw_only=True, tag="abort"):
    """Forget a request, or one of its sequences; an unknown id may just have ended."""

    request_id: str
    index: int | None = None  # None: all its sequences


class StopEngine(msgspec.Struct, frozen=True, kw_only=True, tag="stop"):
    """Exit after the current step."""


EngineCommand = AddRequest | AddPooling | AbortRequest | StopEngine
