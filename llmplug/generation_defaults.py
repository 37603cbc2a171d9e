"""What checkpoint and config say about answers: sampling defaults, ends, template, dialect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmplug.chat.generation_stops import stop_token_ids
from llmplug.errors import CheckpointError, ConfigError
from llmplug.plan import Choice

if TYPE_CHECKING:
    from llmplug.chat.channels import Dialect
    from llmplug.chat.choose_dialect import Evidence
    from llmplug.chat.render import ChatRenderer
    from llmplug.chat.tokenizer import Tokenizer
    from llmplug.config import ModelConfig
    from llmplug.plan import ModelFiles
    from llmplug.registry import Registry, Shelf
    from llmplug.specs import Checkpoint, ReasoningParserSpec, ToolParserSpec

ParserSpec = TypeVar("ParserSpec", "ToolParserSpec", "ReasoningParserSpec")

# Fields of generation_config.json that are defaults of request fields, name for name.
SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class TemplateChoice:
    """The chat template of a model; `source` is None where there is none."""

    source: str | None
    tool_source: str | None = None  # another one, for conversations with tools
    stop_tokens: tuple[str, ...] = ()  # texts that end an answer under this template


@dataclass(frozen=True, slots=True)
class ChatPlan:
    """How a conversation becomes a prompt, what ends an answer, and how it is read."""

    renderer: ChatRenderer | None  # None: no chat template
    end_ids: frozenset[int]
    dialect: Dialect


def plan_chat(
    config: ModelConfig,
    files: ModelFiles,
    tokenizer: Tokenizer,
    registry: Registry,
    choices: list[Choice],
) -> ChatPlan:
    """Choose what stands between messages and tokens, from files that are open already.

    Raises:
        CheckpointError, ConfigError, PluginError: each says what to do.
    """
    from llmplug.chat.channels import Dialect
    from llmplug.chat.choose_dialect import Evidence
    from llmplug.chat.render import ChatRenderer

    checkpoint = files.checkpoint
    template = choose_template(config, checkpoint, tokenizer, registry, choices)
    renderer = None
    if template.source is not None:
        renderer = ChatRenderer(tokenizer, template.source, template.tool_source)
    end_ids: frozenset[int] = frozenset()
    if files.task == "generate":
        end_ids = choose_end_ids(config, checkpoint, tokenizer, template, renderer, choices)
    dialect = Dialect()
    if renderer is not None and template.source is not None:
        evidence = Evidence(
            template=template.source + (template.tool_source or ""),
            config=checkpoint.config,
            vocabulary=frozenset(tokenizer.library.get_vocab()),
            renderer=renderer,
        )
        dialect = choose_model_dialect(config, registry, evidence, choices)
    return ChatPlan(renderer, end_ids, dialect)


def choose_sampling_defaults(
    config: ModelConfig, checkpoint: Checkpoint, choices: list[Choice]
) -> dict[str, float]:
    """Read the sampling defaults that the config allows, by request field.

    Raises:
        ConfigError: the file that the config names cannot be read.
        CheckpointError: the checkpoint's own file has a field of a wrong type.
    """
    values, origin = _find_generation_config(config, checkpoint)
    sampling = {name: values[name] for name in SAMPLING_FIELDS if values.get(name) is not None}
    for name, value in sampling.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{origin}: {name} is {value!r}, not a number")
    # Greedy by default, as transformers reads it; a request's own temperature still wins.
    if values.get("do_sample") is False and "temperature" not in sampling:
        sampling["temperature"] = 0.0
    shown = ", ".join(f"{name}={value}" for name, value in sampling.items()) or "neutral"
    choices.append(Choice(topic="sampling defaults", chosen=shown, why=origin))
    return sampling


def _find_generation_config(
    config: ModelConfig, checkpoint: Checkpoint
) -> tuple[Mapping[str, Any], str]:
    if config.generation_config == "none":
        return {}, "generation_config: none"
    if config.generation_config == "auto":
        if checkpoint.generation_config is None:
            return {}, "the checkpoint has no generation_config.json"
        return checkpoint.generation_config, "generation_config.json of the checkpoint"
    path = Path(config.generation_config).expanduser()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"generation_config: {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"generation_config: {path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"generation_config: {path} holds no JSON object")
    return values, str(path)


def choose_end_ids(
    config: ModelConfig,
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    template: TemplateChoice,
    renderer: ChatRenderer | None,
    choices: list[Choice],
) -> frozenset[int]:
    """Gather every id that ends an answer; end ids are no taste, so no setting turns them off."""
    values, _ = _find_generation_config(config, checkpoint)
    if config.generation_config == "none":
        values = checkpoint.generation_config or {}
    ids = stop_token_ids(tokenizer, checkpoint.config, values, template.stop_tokens)
    end = None if renderer is None else renderer.find_answer_end()
    ids |= frozenset() if end is None else {end}
    shown = ", ".join(f"{i} {tokenizer.token_text(i)!r}" for i in sorted(ids)) or "none"
    why = "generation_config.json, config.json, tokenizer and template together"
    choices.append(Choice(topic="end of answer", chosen=shown, why=why))
    return ids


def choose_template(
    config: ModelConfig,
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    registry: Registry,
    choices: list[Choice],
) -> TemplateChoice:
    """Choose the chat template: the config's, the checkpoint's, or one whose tokens fit.

    Raises:
        ConfigError: the file that the config names cannot be read.
        PluginError: the name that it gives is not offered.
    """
    choice, chosen, why = _find_template(config, checkpoint, tokenizer, registry)
    choices.append(Choice(topic="chat template", chosen=chosen, why=why))
    return choice


def _find_template(
    config: ModelConfig, checkpoint: Checkpoint, tokenizer: Tokenizer, registry: Registry
) -> tuple[TemplateChoice, str, str]:
    wanted = config.chat_template
    own = checkpoint.tokenizer
    if wanted is not None and ("/" in wanted or wanted.endswith(".jinja")):
        path = Path(wanted).expanduser()
        try:
            return TemplateChoice(path.read_text(encoding="utf-8")), wanted, "the config says so"
        except OSError as error:
            raise ConfigError(f"chat_template: {path}: {error.strerror}") from error
    if wanted is not None and wanted in own.named_templates:
        return (
            TemplateChoice(own.named_templates[wanted]),
            wanted,
            "named template of the checkpoint",
        )
    if wanted is not None:
        spec, owner = registry.chat_templates.get(wanted)
        return TemplateChoice(spec.source, stop_tokens=spec.stop_tokens), wanted, f"plugin {owner}"
    if own.chat_template is not None:
        tool_source = own.named_templates.get("tool_use")
        chosen = "the checkpoint's own" + (", and tool_use" if tool_source is not None else "")
        return TemplateChoice(own.chat_template, tool_source), chosen, "found in its files"
    vocabulary = frozenset(tokenizer.library.get_vocab())
    for spec, owner in registry.chat_templates:
        if spec.fits(vocabulary):
            why = f"the checkpoint has none; its vocabulary fits this one of plugin {owner}"
            return TemplateChoice(spec.source, stop_tokens=spec.stop_tokens), spec.name, why
    why = "the checkpoint has none and no plugin's fits: completions only, no chat"
    return TemplateChoice(None), "none", why


def choose_model_dialect(
    config: ModelConfig, registry: Registry, evidence: Evidence, choices: list[Choice]
) -> Dialect:
    """Choose how a model's calls and thinking are read: as the config says, or found out.

    Raises:
        PluginError: nobody offers the dialect that the config names.
    """
    from llmplug.chat.choose_dialect import choose_dialect

    dialect, why = choose_dialect(
        _offered(registry.tool_parsers, config.tool_parser),
        _offered(registry.reasoning_parsers, config.reasoning_parser),
        evidence,
    )
    names = [
        f"{kind} {spec.name if spec is not None else 'none'}"
        for kind, spec in (("calls", dialect.tools), ("thinking", dialect.reasoning))
    ]
    choices.append(Choice(topic="dialect", chosen=", ".join(names), why=why))
    choices.extend(
        Choice(topic="warning", chosen="dialect", why=problem) for problem in dialect.problems
    )
    return dialect


def _offered(shelf: Shelf[ParserSpec], name: str) -> list[ParserSpec]:
    """Return the parsers to choose among: all of them, none, or the one that is named."""
    from llmplug.chat.choose_dialect import as_named

    if name == "auto":
        return [entry.spec for entry in shelf]
    return [] if name == "none" else [as_named(shelf.get(name).spec)]
