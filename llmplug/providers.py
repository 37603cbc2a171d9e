"""Which plugin provides each part of a model, and what would take its place.

Found out by choosing again with that plugin blocked: what is said here is what a start would do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmplug.assemble import allowed_kernels
from llmplug.errors import LlmplugError
from llmplug.generation_defaults import choose_template, plan_chat
from llmplug.grammar_backends import choose_backend
from llmplug.plan import ModelFiles

if TYPE_CHECKING:
    from llmplug.chat.channels import Dialect
    from llmplug.plan import Choice, ModelPlan
    from llmplug.registry import Registry

NO_START = "it would not start"
Provided = tuple[str, str | None]  # name of a part, long name of its plugin; None: of no plugin
Choose = Callable[["ModelPlan", "Registry"], Provided | None]
# Where nothing takes the place of a part, and the start goes on.
_WITHOUT = {
    "grammar backend": "requests that ask for a form would be refused",
    "chat template": "completions only, no chat",
    "tool parser": "calls would be told as text",
    "reasoning parser": "thinking would be told as text",
    "sampler": "requests that ask for it would be refused",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of what serves a model."""

    kind: str  # "architecture", "kernel linear"
    name: str
    plugin: str | None  # long name; None: no plugin provides it
    next_name: str | None = None  # what would take its place; None: nothing
    next_plugin: str | None = None
    without: str = ""  # where nothing would: what happens then

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @property
    def successor(self) -> str:
        """What would take its place, for a table."""
        if self.next_name is None:
            return f"nothing: {self.without.partition(': ')[0]}" if self.plugin else "-"
        return f"{self.next_name}, {self.next_plugin or 'of llmplug itself'}"


def list_parts(plan: ModelPlan, registry: Registry) -> list[Part]:
    """Return the parts of a model that plugins provide, or could."""
    choosers = [*_FILES, *((f"kernel {each.op}", _kernel_of(each.op)) for each in plan.kernels)]
    if plan.pooling is None:
        choosers += [*_CHAT, *_samplers_of(registry)]
    parts = [_find_part(plan, registry, kind, choose) for kind, choose in choosers]
    return [part for part in parts if part is not None]


def _find_part(plan: ModelPlan, registry: Registry, kind: str, choose: Choose) -> Part | None:
    """Choose a part, then once more without the plugin that provides it."""
    chosen = choose(plan, registry)
    if chosen is None:
        return None
    name, plugin = chosen
    if plugin is None:
        return Part(kind=kind, name=name, plugin=None)
    without = _WITHOUT.get(kind, NO_START)
    following = None
    try:
        following = choose(plan, registry.without(plugin))
    except LlmplugError as error:
        without = f"{NO_START}: {error}"
    if following is None:
        return Part(kind=kind, name=name, plugin=plugin, without=without)
    next_name, next_plugin = following
    return Part(kind=kind, name=name, plugin=plugin, next_name=next_name, next_plugin=next_plugin)


def _choose_source(plan: ModelPlan, registry: Registry) -> Provided | None:
    found = registry.source_for(plan.config.source)
    if found is None:
        return None  # a path
    (spec, owner), _ = found
    return spec.scheme, owner


def _choose_loader(plan: ModelPlan, registry: Registry) -> Provided:
    spec, owner = registry.loader_for(plan.path)
    return spec.name, owner


def _choose_model(plan: ModelPlan, registry: Registry) -> Provided:
    spec, owner = registry.model_for(plan.checkpoint.config)
    return spec.name, owner


def _kernel_of(op: str) -> Choose:
    def choose(plan: ModelPlan, registry: Registry) -> Provided:
        from llmplug.ops import REFERENCES, choose_kernels

        specs = allowed_kernels(plan.config, registry, [])
        choices = choose_kernels(REFERENCES, specs, plan.device, plan.dtype)
        (choice,) = (each for each in choices if each.op == op)
        return choice.kernel, choice.plugin

    return choose


def _choose_grammars(plan: ModelPlan, registry: Registry) -> Provided | None:
    spec = choose_backend(plan.config.grammar_backend, registry)
    return None if spec is None else (spec.name, registry.grammars.get(spec.name).owner)


def _choose_template(plan: ModelPlan, registry: Registry) -> Provided | None:
    said: list[Choice] = []
    choice = choose_template(plan.config, plan.checkpoint, plan.tokenizer, registry, said)
    if choice.source is None:
        return None
    owners = [
        (entry.spec.name, entry.owner)
        for entry in registry.chat_templates
        if entry.spec.source is choice.source
    ]
    return owners[0] if owners else (said[0].chosen, None)


def _choose_dialect(plan: ModelPlan, registry: Registry) -> Dialect:
    files = ModelFiles(
        path=plan.path,
        checkpoint=plan.checkpoint,
        model=plan.model,
        shape=plan.shape,
        task=plan.task,
        pooling=plan.pooling,
    )
    return plan_chat(plan.config, files, plan.tokenizer, registry, []).dialect


def _choose_tool_parser(plan: ModelPlan, registry: Registry) -> Provided | None:
    spec = _choose_dialect(plan, registry).tools
    return None if spec is None else (spec.name, registry.tool_parsers.get(spec.name).owner)


def _choose_reasoning(plan: ModelPlan, registry: Registry) -> Provided | None:
    spec = _choose_dialect(plan, registry).reasoning
    return None if spec is None else (spec.name, registry.reasoning_parsers.get(spec.name).owner)


def _samplers_of(registry: Registry) -> list[tuple[str, Choose]]:
    """Return the samplers; one takes another's place if it has its name, and was refused so far."""
    names = [entry.spec.name for entry in registry.samplers if not entry.spec.fuses]
    return [("sampler", _sampler_called(name)) for name in names]


def _sampler_called(name: str) -> Choose:
    def choose(plan: ModelPlan, registry: Registry) -> Provided | None:
        owners = [entry.owner for entry in registry.samplers if entry.spec.name == name]
        return (name, owners[0]) if owners else None

    return choose


_FILES: tuple[tuple[str, Choose], ...] = (
    ("source", _choose_source),
    ("loader", _choose_loader),
    ("architecture", _choose_model),
)
_CHAT: tuple[tuple[str, Choose], ...] = (
    ("grammar backend", _choose_grammars),
    ("chat template", _choose_template),
    ("tool parser", _choose_tool_parser),
    ("reasoning parser", _choose_reasoning),
)
