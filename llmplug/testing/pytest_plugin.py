"""Collect tests of installed plugins: `pytest -p llmplug.testing.pytest_plugin`.

`--llmplug-plugin NAME` names them, by their entry points; `--llmplug-quick` tries dialects on few
texts and times none. What a check must be told more of than its spec is skipped, and says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import pytest

from llmplug.dialect import CustomCalls

if TYPE_CHECKING:
    from llmplug.specs import GrammarSpec, KernelSpec, ReasoningParserSpec, ToolParserSpec

_OPTION = "--llmplug-plugin"
_QUICK_OPTION = "--llmplug-quick"
_QUICK = {"num_examples": 10, "num_chars": 0}  # of the checks of parsers
# Hooks whose specs do not say enough to be tried.
_WANTING = {
    "llmplug_chat_templates": "check_chat_template wants tokens",
    "llmplug_model_loaders": "check_loader wants a checkpoint",
    "llmplug_models": "check_model wants a checkpoint",
    "llmplug_samplers": "check_sampler wants settings that make it active",
    "llmplug_sources": "nothing checks sources",
}


class _SpecItem(pytest.Item):
    """The test of one spec."""

    def __init__(self, *, check: Callable[[], None], **fields: Any) -> None:
        super().__init__(**fields)
        self._check = check

    def runtest(self) -> None:
        self._check()

    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, None, self.name


class _PluginTests(pytest.Collector):
    """The tests of one plugin."""

    def collect(self) -> Iterator[pytest.Item]:
        (point,) = entry_points(group="llmplug", name=self.name)
        plugin = point.load()
        effort = _QUICK if self.config.getoption(_QUICK_OPTION) else {}
        for name, check in [*_list_kernels(plugin), *_list_others(plugin, effort)]:
            yield _SpecItem.from_parent(self, name=name, check=check)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names plugins, and the one for those in a hurry."""
    words = "check all that an installed plugin of llmplug offers"
    parser.addoption(_OPTION, action="append", default=[], metavar="NAME", help=words)
    words = "try dialects on few texts, and time none"
    parser.addoption(_QUICK_OPTION, action="store_true", help=words)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse names that nothing has."""
    known = {point.name for point in entry_points(group="llmplug")}
    for name in config.getoption(_OPTION):
        if name not in known:
            raise pytest.UsageError(f"{_OPTION} {name}: no installed plugin has this name")


def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add the tests of the plugins that are named."""
    for name in session.config.getoption(_OPTION):
        tests: _PluginTests = _PluginTests.from_parent(session, name=name)
        items += tests.collect()


def _list_specs(plugin: Any, hook: str) -> list[Any]:
    """Call a hook if the plugin has it, with the defaults of its settings."""
    function = getattr(plugin, hook, None)
    if function is None:
        return []
    takes_settings = "settings" in inspect.signature(function).parameters
    return list(function(plugin.llmplug_settings()()) if takes_settings else function())


def _list_kernels(plugin: Any) -> Iterator[tuple[str, Callable[[], None]]]:
    import torch

    from llmplug.testing.kernel_properties import DTYPES

    specs: list[KernelSpec] = _list_specs(plugin, "llmplug_kernels")
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for spec in specs:
        for device in devices:
            for dtype in DTYPES:
                name = f"{spec.op}-{spec.name}-{device}-{dtype}"
                yield name, partial(_try_kernel, spec, device, dtype, specs)


def _try_kernel(spec: KernelSpec, device: str, dtype: str, others: list[KernelSpec]) -> None:
    from llmplug.testing.kernels import check_kernel

    reason = spec.supports(device, dtype)
    if reason is not None:
        pytest.skip(reason)
    check_kernel(spec, device=device, dtype=dtype, others=others)


def _list_others(
    plugin: Any, effort: Mapping[str, int]
) -> Iterator[tuple[str, Callable[[], None]]]:
    grammars: list[GrammarSpec] = _list_specs(plugin, "llmplug_grammars")
    thinking: list[ReasoningParserSpec] = _list_specs(plugin, "llmplug_reasoning_parsers")
    calls: list[ToolParserSpec] = _list_specs(plugin, "llmplug_tool_parsers")
    for grammar in grammars:
        yield f"grammar-{grammar.name}", partial(_call, "check_grammar", grammar)
    for reasoning in thinking:
        whole = [tools.name for tools in calls if tools.is_whole]
        check = partial(_try_thinking, reasoning, whole, effort)
        yield f"thinking-{reasoning.name}", check
    for tools in calls:
        yield f"calls-{tools.name}", partial(_try_calls, tools, effort)
    for hook, reason in _WANTING.items():
        for spec in _list_specs(plugin, hook):
            name = getattr(spec, "name", None) or spec.scheme
            yield f"{hook.removeprefix('llmplug_')}-{name}", partial(pytest.skip, reason)


def _try_thinking(
    spec: ReasoningParserSpec, whole: Sequence[str], effort: Mapping[str, int]
) -> None:
    if spec.name in whole:
        pytest.skip("the parser of its calls reads whole answers: check_tool_parser is for both")
    _call("check_reasoning_parser", spec, **effort)


def _try_calls(spec: ToolParserSpec, effort: Mapping[str, int]) -> None:
    if not spec.syntax or any(isinstance(table, CustomCalls) for table in spec.syntax):
        pytest.skip("check_tool_parser wants `write`")
    _call("check_tool_parser", spec, **effort)


def _call(check: str, spec: Any, **effort: int) -> None:
    from llmplug import testing

    getattr(testing, check)(spec, **effort)
