"""What can be configured: the key is the field, an unknown key is an error.

The descriptions are what `llmplug config schema` and the docs print.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from llmplug.config.deploy import DeployConfig
from llmplug.config.keys import KeyConfig  # noqa: TC001 - pydantic reads it at run time
from llmplug.config.operations import AdminConfig, FlightRecorderConfig, LogConfig, TracesConfig
from llmplug.config.parallel import ParallelConfig
from llmplug.config.values import (
    CacheMemory,
    FieldProblem,
    InterTokenMs,
    Name,
    Path,
    PlainValues,
    Section,
    Size,
    is_loopback,
)


class TlsConfig(Section):
    """Encryption of the main listener."""

    certificate: Name = Field(description="PEM file with the certificate, and its chain.")
    private_key: Name = Field(description="PEM file with its private key.")
    client_ca: Name | None = Field(
        None, description="PEM file; then clients must show a certificate that it signed."
    )


class ResponsesConfig(Section):
    """Where the Responses API keeps what it is asked to store, and how much of it."""

    path: Name = Field(
        "auto",
        description="A SQLite file; auto: llmplug/responses.sqlite where programs keep their "
        "state; memory: nothing is written down, and a restart forgets.",
    )
    max_bytes: Size = Field(
        2**30, ge=1, description="Of all that is kept, about; what was used longest ago goes first."
    )
    ttl_s: float = Field(
        30 * 86400.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds after which goes what nobody asked for.",
    )


class BatchesConfig(Section):
    """Files and batches: where they are kept, and how much of them."""

    path: Name = Field(
        "auto",
        description="A folder; auto: llmplug/batches where programs keep their state; none: there "
        "are no files and batches.",
    )
    max_bytes: Size = Field(10 * 2**30, ge=1, description="Of all files together.")
    max_file_bytes: Size = Field(100 * 2**20, ge=1, description="Of one file.")
    ttl_s: float = Field(
        30 * 86400.0, gt=0, allow_inf_nan=False, description="Seconds after which a file goes."
    )
    at_once: int = Field(
        16, ge=1, le=1024, description="Lines of one batch that are answered at the same time."
    )


class ServerConfig(Section):
    """Where the server listens, and for whom."""

    host: Name = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 lets others in.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 takes any that is free.")
    api_keys: tuple[KeyConfig, ...] = Field(
        (),
        json_schema_extra={"secret": True},
        description="Keys that requests may carry: text, or keys and values as below; `${NAME}` "
        "reads one from the environment.",
    )
    api_keys_file: Name | None = Field(
        None,
        description="A YAML file with one more list `api_keys`; read again when it changes.",
    )
    auth: Literal["auto", "none"] = Field(
        "auto",
        description="auto: a key is asked for if there are any, and without one the server "
        "listens on this machine only. none: open to everybody who can reach it.",
    )
    max_waiting_requests: int = Field(
        256, ge=0, description="Requests that may wait; more get 429 and Retry-After."
    )
    max_running_bytes: Size = Field(
        256 * 2**20, ge=1, description="Of the bodies of all requests that are being answered."
    )
    max_body_bytes: Size = Field(16 * 2**20, ge=1, description="Largest body of a request.")
    drain_s: float = Field(
        30.0,
        ge=0,
        allow_inf_nan=False,
        description="How long running requests may finish after a stop.",
    )
    strict_fields: bool = Field(
        False,
        description="Whether a field that nobody knows is refused; else it is named in a header "
        "of the reply.",
    )
    metrics: bool = Field(True, description="Whether /metrics is served for Prometheus.")
    reasoning_fields: tuple[Literal["reasoning_content", "reasoning"], ...] = Field(
        ("reasoning_content", "reasoning"),
        description="Fields of an answer that hold its thinking: clients know either name.",
    )

    responses: ResponsesConfig = Field(
        ResponsesConfig(), description="What the Responses API stores."
    )
    batches: BatchesConfig = Field(BatchesConfig(), description="Files and batches.")
    admin: AdminConfig = Field(AdminConfig(), description="Health and levers, apart.")
    flight_recorder: FlightRecorderConfig = Field(
        FlightRecorderConfig(), description="What the last requests looked like."
    )
    traces: TracesConfig | None = Field(
        None, description="Spans for OpenTelemetry; null: none are made."
    )
    tls: TlsConfig | None = Field(None, description="Encryption; null: none.")

    @model_validator(mode="after")
    def _check_door(self) -> ServerConfig:
        has_keys = bool(self.api_keys or self.api_keys_file)
        if self.auth == "none" and has_keys:
            raise FieldProblem("'none' and api_keys contradict each other", "auth")
        if self.auth != "none" and not has_keys and not is_loopback(self.host):
            raise FieldProblem(
                f"{self.host!r} can be reached from other machines: set server.api_keys, or "
                "server.auth: none to serve everybody",
                "host",
            )
        return self


class CacheConfig(Section):
    """The cache of keys and values."""

    page_size: int = Field(16, ge=1, le=4096, description="Tokens in a page.")
    dtype: Literal["auto", "float32", "bfloat16", "float16", "fp8"] = Field(
        "auto",
        description="Numbers it keeps; auto: half precision where the model computes in float32, "
        "fp8 where the checkpoint has scales for it that all kernels heed; fp8: 8-bit floats "
        "(e4m3), less exact, with the checkpoint's scales if it has any, on GPUs.",
    )
    memory: CacheMemory = Field(
        "auto", description="Size, such as 512MiB; auto: a share of what is free."
    )
    share_prefixes: bool = Field(
        True, description="Whether prompts reuse what was computed of an equal beginning."
    )


class SchedulerConfig(Section):
    """What one step of the engine may hold."""

    max_sequences: int = Field(64, ge=1, description="Sequences that run at once.")
    max_batch_tokens: int = Field(
        512, ge=1, description="Tokens of one step, prefill and decode together."
    )
    prefill_chunk: int = Field(256, ge=1, description="Tokens of one prompt in one step, at most.")
    inter_token_ms: InterTokenMs = Field(
        "auto",
        description="What a step may take, so that prompts do not hold up whoever is being "
        "answered; auto: 50, or four times what the step takes without prompts where that is more.",
    )
    launch_ahead: bool | Literal["auto"] = Field(
        "auto",
        description="Whether steps are launched before the tokens of the last one are known here, "
        "those without prompts as a whole (CUDA graphs); auto: on GPUs.",
    )

    @model_validator(mode="after")
    def _check_budget(self) -> SchedulerConfig:
        for name in ("max_sequences", "prefill_chunk"):
            value = getattr(self, name)
            if value > self.max_batch_tokens:
                raise FieldProblem(
                    f"{value} is more than max_batch_tokens, {self.max_batch_tokens}", name
                )
        return self


class KernelsConfig(Section):
    """Which kernels may be chosen."""

    block: tuple[Name, ...] = Field((), description="Kernels not to use, by name.")
    tuning: Name = Field(
        "auto",
        description="The table that `llmplug tune` wrote; auto: llmplug/tuning.json where programs "
        "keep what can be made again, if it is there; none: kernels take their defaults.",
    )


class WeightsConfig(Section):
    """How weights are kept in memory."""

    format: Literal["auto", "float32", "bfloat16", "int8", "int4", "fp8", "w4a8"] = Field(
        "auto",
        description="Of linear layers: auto: what the kernel finds best for the file and the "
        "device; int4 keeps a file's own 4 and 8 bit blocks, exact up to rounding; fp8, on "
        "GPUs, keeps 8-bit floats; w4a8 also rounds activations to 8 bits where they meet 4-bit "
        "blocks: faster, less exact.",
    )


class ModelConfig(Section):
    """One model to serve."""

    name: Name = Field("", description="What requests call it; left out: the source's file name.")
    source: Name = Field(description="`scheme:...` of a source plugin, or a path.")
    aliases: tuple[Name, ...] = Field((), description="Further names.")
    task: Literal["auto", "generate", "embed", "classify"] = Field(
        "auto",
        description="What it is served for; auto: what it is made for. A model that generates can "
        "embed too.",
    )
    start: Literal["eager", "lazy"] = Field(
        "eager",
        description="When its engine starts: eager: with the server; lazy: with the first request, "
        "which waits.",
    )
    keep_alive_s: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds without a request until its engine is stopped, and its memory free; "
        "the next request starts it again. null: never.",
    )
    replicas: int = Field(
        1,
        ge=1,
        le=64,
        description="Engines that share its requests, each with the whole model: on GPUs of their "
        "own, or with an equal share of the CPU's threads and memory.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where it runs.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Numbers it computes with."
    )
    context_length: int | None = Field(
        None, ge=1, description="Tokens of prompt and answer; null: what the model was made for."
    )
    generation_config: Name = Field(
        "auto",
        description="Sampling defaults: auto: the checkpoint's; none: neutral; or a path to a "
        "generation_config.json.",
    )
    chat_template: Name | None = Field(
        None, description="A plugin's template by name, or a path to a .jinja file; null: its own."
    )
    trust_request_templates: bool = Field(
        False,
        description="Whether requests may bring a chat_template: a program, which runs in a "
        "sandbox with budgets; only for clients that you trust.",
    )
    tool_parser: Name = Field(
        "auto",
        description="How tool calls are read: a plugin's dialect by name; auto: found out; none.",
    )
    reasoning_parser: Name = Field(
        "auto",
        description="How thinking is read: a plugin's dialect by name; auto: found out; none.",
    )
    grammar_backend: Name = Field(
        "auto",
        description="What holds answers to a form: a plugin's backend by name; auto: the one that "
        "comes first; none.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="Of the CPU, for all replicas and ranks together; null: one a core.",
    )
    parallel: ParallelConfig = Field(
        ParallelConfig(), description="How several processes compute it together."
    )
    weights: WeightsConfig = Field(WeightsConfig(), description="How weights are kept in memory.")
    cache: CacheConfig = Field(CacheConfig(), description="The cache of keys and values.")
    scheduler: SchedulerConfig = Field(SchedulerConfig(), description="What one step may hold.")
    kernels: KernelsConfig = Field(KernelsConfig(), description="Which kernels may be chosen.")

    @model_validator(mode="after")
    def _check_replicas(self) -> ModelConfig:
        if self.replicas > 1 and self.parallel.nodes > 1:
            raise FieldProblem(
                "an engine with ranks on several nodes has no replicas in its server; start "
                "another server for each",
                "replicas",
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill_name(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "name" not in data and isinstance(data.get("source"), str):
            return {**data, "name": derive_name(data["source"])}
        return data


class PluginsConfig(Section):
    """Which plugins may load, and which must."""

    block: tuple[Name, ...] = Field((), description="Not to load, by short or long name.")
    require: tuple[Name, ...] = Field((), description="The start fails without these.")
    settings: dict[Name, PlainValues] = Field(
        {},
        repr=False,
        json_schema_extra={"secret": True},  # what of it is, says the plugin alone
        description="What plugins are told, each by its short or long name: `llmplug config "
        "schema` prints what the installed ones take.",
    )


class Config(Section):
    """The whole config."""

    server: ServerConfig = Field(ServerConfig(), description="Where it listens, and for whom.")
    models: tuple[ModelConfig, ...] = Field(description="What is served; at least one.")
    plugins: PluginsConfig = Field(PluginsConfig(), description="Which plugins load.")
    log: LogConfig = Field(LogConfig(), description="What is logged.")
    deploy: DeployConfig = Field(
        DeployConfig(), description="How `llmplug deploy` spreads it over a cluster."
    )

    # Path of each value that somebody wrote -> where: "config/x.yaml:12". For `explain`.
    _places: dict[Path, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _check_names(self) -> Config:
        if not self.models:
            raise FieldProblem("expected at least one model", "models")
        taken: dict[str, int] = {}
        for index, model in enumerate(self.models):
            for key, names in (("name", (model.name,)), ("aliases", model.aliases)):
                for name in names:
                    if name in taken:
                        raise FieldProblem(
                            f"the name {name!r} is already that of models.{taken[name]}; "
                            "names and aliases must differ",
                            *("models", index, key),
                        )
                    taken[name] = index
        return self

    @model_validator(mode="after")
    def _check_addresses(self) -> Config:
        taken: dict[str, int] = {}
        for index, model in enumerate(self.models):
            address = model.parallel.address
            if address is not None and taken.setdefault(address, index) != index:
                raise FieldProblem(
                    f"{address} is already that of models.{taken[address]}",
                    *("models", index, "parallel", "address"),
                )
        return self


def derive_name(source: str) -> str:
    """Name a model after its source: the last part, without revision, version and suffix."""
    rest = source.rpartition(":")[2].rstrip("/")
    last = re.split(r"@|==", rest.rpartition("/")[2])[0]
    # "Q4_1.gguf" ends in a suffix, "name-0.6B" does not.
    return re.sub(r"\.[a-z]{3,}$", "", last) or source
