"""What would take a part's place is what a start without its plugin chooses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import make_checkpoint

from llmplug import assemble
from llmplug.config import Config, parse
from llmplug.errors import LlmplugError
from llmplug.plan import ModelPlan
from llmplug.providers import Part, list_parts
from llmplug.registry import Registry
from tests.fake_plugins import Site


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("made") / "tiny")


def read(folder: Path, *block: str, more: str = "") -> Config:
    model = f"{{source: {folder}, device: cpu, cache: {{memory: 4MiB}}{more}}}"
    return parse(f"models: [{model}]\nplugins: {{block: {list(block)}}}")


def plan(config: Config) -> tuple[ModelPlan, Registry]:
    registry = assemble.load_registry(config)
    return assemble.plan_model(config.models[0], registry, lambda *_: None), registry


def find(parts: list[Part], kind: str, name: str | None = None) -> Part:
    (part,) = (part for part in parts if part.kind == kind and name in {None, part.name})
    return part


# How a plan itself says what a kind of part is.
CHOSEN: dict[str, Callable[[ModelPlan], str]] = {
    "architecture": lambda plan: plan.model.name,
    "kernel linear": lambda plan: _kernel(plan, "linear"),
    "kernel decoder_layer": lambda plan: _kernel(plan, "decoder_layer"),
    "grammar backend": lambda plan: _said(plan, "structured output"),
    "tool parser": lambda plan: "none" if plan.dialect.tools is None else plan.dialect.tools.name,
}


def _kernel(plan: ModelPlan, op: str) -> str:
    (choice,) = (choice for choice in plan.kernels if choice.op == op)
    return choice.kernel


def _said(plan: ModelPlan, topic: str) -> str:
    (line,) = (line for line in plan.choices if line.topic == topic)
    return line.chosen


def test_a_start_without_the_plugin_chooses_what_was_said(folder: Path) -> None:
    whole, registry = plan(read(folder))
    parts = list_parts(whole, registry)
    for kind, chosen in CHOSEN.items():
        part = find(parts, kind)
        assert part.name == chosen(whole)
        if part.plugin is not None:
            without, _ = plan(read(folder, part.plugin))
            assert chosen(without) == (part.next_name or "none"), kind
    loader = find(parts, "loader")
    with pytest.raises(LlmplugError) as caught:
        plan(read(folder, loader.plugin or ""))
    assert loader.next_name is None
    assert loader.without.startswith("it would not start: ")
    # A plugin that the config blocks is told; one that is taken away in thought is not.
    assert (
        str(caught.value).split(";")[0]
        == loader.without.removeprefix("it would not start: ").split(";")[0]
    )


def test_what_the_config_names_has_no_successor(folder: Path) -> None:
    named = ", grammar_backend: llguidance, tool_parser: generic"
    parts = list_parts(*plan(read(folder, more=named)))
    for kind in ("grammar backend", "tool parser"):
        part = find(parts, kind)
        assert (part.next_name, part.without.partition(": ")[0]) == (None, "it would not start")


def test_what_was_refused_for_a_name_is_next(folder: Path, site: Site) -> None:
    site.install("rival", "@hookimpl\ndef llmplug_samplers(): return [sampler('xtc')]\n")
    parts = list_parts(*plan(read(folder)))
    xtc, dry = find(parts, "sampler", "xtc"), find(parts, "sampler", "dry")
    assert (xtc.plugin, xtc.next_plugin) == ("llmplug:xtc", "dist-rival:rival")
    assert (dry.next_name, dry.without) == (None, "requests that ask for it would be refused")


def test_a_template_of_a_plugin_is_told(folder: Path, site: Site) -> None:
    site.install("mine", "@hookimpl\ndef llmplug_chat_templates(): return [template('mine')]\n")
    own = find(list_parts(*plan(read(folder))), "chat template")
    assert (own.name, own.plugin) == ("the checkpoint's own", None)
    named = find(list_parts(*plan(read(folder, more=", chat_template: mine"))), "chat template")
    assert (named.name, named.plugin) == ("mine", "dist-mine:mine")
    assert named.without.startswith("it would not start: no installed plugin offers")


def test_a_source_is_told_but_for_paths(folder: Path, site: Site) -> None:
    assert not [part for part in list_parts(*plan(read(folder))) if part.kind == "source"]
    found = "replace(source('mine'), find=lambda rest, cache_dir: Path(rest))"
    code = f"@hookimpl\ndef llmplug_sources(): return [{found}]\n"
    site.install("mine", f"from dataclasses import replace\nfrom pathlib import Path\n{code}")
    config = parse(f"models: [{{source: 'mine:{folder}', device: cpu, cache: {{memory: 4MiB}}}}]\n")
    source = find(list_parts(*plan(config)), "source")
    assert (source.name, source.plugin) == ("mine", "dist-mine:mine")
    assert source.without.startswith("it would not start: source 'mine:")
