"""What can be tried of plugins without a model: `llmplug plugins --check`.

Loading has looked at hooks, fields and signatures. Here the functions of specs are called that need
no more than a word, as a server would call them; what is heavy (torch) is imported only now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmplug.dialect import Match
from llmplug.errors import LlmplugError

if TYPE_CHECKING:
    from llmplug.plugin_report import Plugin
    from llmplug.specs import (
        ChatTemplateSpec,
        KernelSpec,
        LoaderSpec,
        ReasoningParserSpec,
        SamplerSpec,
        ToolParserSpec,
    )

# Where a spec may say that it runs, all of which it is asked for.
_PLACES = (("cpu", "float32"), ("cuda", "bfloat16"))


def try_plugin(plugin: Plugin) -> list[str]:
    """Try what a loaded plugin offers; return what is wrong with it, in words."""
    troubles = list(_try_settings(plugin))
    for offer in plugin.offers:
        trial = _TRIALS.get(offer.kind)
        if trial is None:
            continue
        try:
            troubles += [f"{offer}: {trouble}" for trouble in trial(offer.spec)]
        except LlmplugError as error:
            troubles.append(f"{offer}: {error}")
        except Exception as error:  # noqa: BLE001 - a plugin's function may raise anything; it is told
            troubles.append(f"{offer}: it raised {error!r}")
    return troubles


def _try_settings(plugin: Plugin) -> Iterator[str]:
    if plugin.settings is None:
        return
    model = type(plugin.settings)
    try:
        model.model_json_schema()
        model.model_validate_json(plugin.settings.model_dump_json(exclude_defaults=True))
    except Exception as error:  # noqa: BLE001 - the model is a plugin's: it may raise anything
        yield f"settings: {error}"


def _try_sampler(spec: SamplerSpec) -> Iterator[str]:
    is_optional = spec.stage != "choose" and not spec.fuses
    if is_optional and spec.is_active(spec.params()):
        yield "it is active for requests that say nothing to it; its defaults are to be neutral"


def _try_kernel(spec: KernelSpec) -> Iterator[str]:
    from llmplug.ops import REFERENCES

    if spec.op not in REFERENCES:
        yield f"llmplug has no op {spec.op!r}"
    for device, dtype in _PLACES:
        reason = spec.supports(device, dtype)
        if reason is not None and not (isinstance(reason, str) and reason):
            yield f"'supports' gives {reason!r} for {device}, {dtype}; None or the reason why not"


def _try_loader(spec: LoaderSpec) -> Iterator[str]:
    for path in (Path("no-such-folder"), Path("no-such-file.bin")):
        if spec.claims(path):
            yield f"it claims {str(path)!r}, which is not there"


def _try_template(spec: ChatTemplateSpec) -> Iterator[str]:
    from llmplug.chat.jinja import Template

    Template(spec.source)
    if spec.fits(frozenset()):
        yield "it fits a model without a vocabulary, and so any"


def _try_parser(spec: ToolParserSpec | ReasoningParserSpec) -> Iterator[str]:
    match = spec.detect("", {}, frozenset())
    if not isinstance(match, Match):
        yield f"'detect' gives {match!r}, not an llmplug.dialect.Match"
    elif match.score >= 1:
        yield "it is certain to fit a model of which nothing is known"


_TRIALS: Mapping[str, Callable[[Any], Iterator[str]]] = {
    "samplers": _try_sampler,
    "kernels": _try_kernel,
    "model_loaders": _try_loader,
    "chat_templates": _try_template,
    "tool_parsers": _try_parser,
    "reasoning_parsers": _try_parser,
}
