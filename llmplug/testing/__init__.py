"""Checks for plugin authors: one for each kind of spec, run from the author's own tests.

Each takes what a hook returns, and raises an AssertionError that says what to do:

    from llmplug.testing import check_sampler

    def test_my_sampler():
        (spec,) = my_plugin.llmplug_samplers()
        check_sampler(spec, [{"strength": 0.5}, {"strength": 2.0}])

    check_chat_template    llmplug_chat_templates()
    check_grammar          llmplug_grammars()
    check_kernel           llmplug_kernels()
    check_loader           llmplug_model_loaders()
    check_model            llmplug_models()
    check_sampler          llmplug_samplers()
    check_fused_sampler    llmplug_samplers(), those that stand for several
    check_tool_parser      llmplug_tool_parsers()
    check_reasoning_parser llmplug_reasoning_parsers()

hypothesis and transformers are imported by the checks that need them:
`pip install 'llmplug[test-kit]'`. Nothing here is imported by a server.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "llmplug.testing.call_writing": ("Call",),
    "llmplug.testing.chat_templates": ("check_chat_template",),
    "llmplug.testing.fused_samplers": ("check_fused_sampler",),
    "llmplug.testing.grammar_cases": ("Case",),
    "llmplug.testing.grammars": ("check_grammar",),
    "llmplug.testing.guarded_memory": ("GuardedMemory", "poisoned_memory"),
    "llmplug.testing.kernels": ("check_kernel",),
    "llmplug.testing.loaders": ("check_loader",),
    "llmplug.testing.models": ("check_model",),
    "llmplug.testing.parsers": ("check_reasoning_parser", "check_tool_parser"),
    "llmplug.testing.samplers": ("check_sampler",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [*_HOME]  # noqa: PLE0604 - names are resolved by __getattr__


def __getattr__(name: str) -> Any:
    try:
        module = importlib.import_module(_HOME[name])
    except KeyError:
        raise AttributeError(f"module 'llmplug.testing' has no attribute {name!r}") from None
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from llmplug.testing.call_writing import Call as Call
    from llmplug.testing.chat_templates import check_chat_template as check_chat_template
    from llmplug.testing.fused_samplers import check_fused_sampler as check_fused_sampler
    from llmplug.testing.grammar_cases import Case as Case
    from llmplug.testing.grammars import check_grammar as check_grammar
    from llmplug.testing.guarded_memory import GuardedMemory as GuardedMemory
    from llmplug.testing.guarded_memory import poisoned_memory as poisoned_memory
    from llmplug.testing.kernels import check_kernel as check_kernel
    from llmplug.testing.loaders import check_loader as check_loader
    from llmplug.testing.models import check_model as check_model
    from llmplug.testing.parsers import check_reasoning_parser as check_reasoning_parser
    from llmplug.testing.parsers import check_tool_parser as check_tool_parser
    from llmplug.testing.samplers import check_sampler as check_sampler
