"""Find the dialect that a model writes, from its template, its config and its vocabulary.

The plugins' `detect` names candidates; the first of them that reads back what the template itself
writes is taken. None does: the best is taken all the same, and the problem is told; so it is where
two fit equally well and the template writes nothing to tell them apart by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from llmplug.chat.channels import Dialect
from llmplug.chat.round_trip import NotShown, find_call_problem, find_thinking_problem
from llmplug.dialect import NO_MATCH, Match
from llmplug.errors import LlmplugError

if TYPE_CHECKING:
    from llmplug.chat.render import ChatRenderer
    from llmplug.specs import ReasoningParserSpec, ToolParserSpec

Spec = TypeVar("Spec", "ToolParserSpec", "ReasoningParserSpec")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a dialect is found out from."""

    template: str
    config: Mapping[str, Any]
    vocabulary: frozenset[str]
    renderer: ChatRenderer


def choose_dialect(
    tool_parsers: Sequence[ToolParserSpec],
    reasoning_parsers: Sequence[ReasoningParserSpec],
    evidence: Evidence,
) -> tuple[Dialect, str]:
    """Choose among parsers, of which one alone is that which a config names.

    Returns:
        The dialect, and why.
    """
    problems: list[str] = []
    reasoning, why_reasoning = _choose(
        _rank(reasoning_parsers, evidence, problems),
        lambda spec: find_thinking_problem(evidence.renderer, spec),
        problems,
    )
    tools, why_tools = _choose(
        _rank(tool_parsers, evidence, problems),
        lambda spec: find_call_problem(evidence.renderer, reasoning, spec),
        problems,
    )
    why = f"calls: {why_tools}; thinking: {why_reasoning}"
    return Dialect(reasoning, tools, tuple(problems)), why


def as_named(spec: Spec) -> Spec:
    """Return the parser that a config names: it fits whatever it says itself."""
    return replace(spec, detect=lambda *_: Match(1.0, "the config names it"))


def _rank(
    specs: Sequence[Spec], evidence: Evidence, problems: list[str]
) -> list[tuple[Spec, Match]]:
    """Ask every plugin; the best comes first, and of equals the first by name."""
    ranked: list[tuple[Spec, Match]] = []
    for spec in specs:
        try:
            match = spec.detect(evidence.template, evidence.config, evidence.vocabulary)
        except Exception as error:  # noqa: BLE001 - a plugin's fault is told, and it is passed over
            problems.append(f"the dialect {spec.name!r} failed while it was detected: {error!r}")
            match = NO_MATCH
        if match.score > 0:
            ranked.append((spec, match))
    return sorted(ranked, key=lambda pair: (-pair[1].score, pair[0].name))


def _choose(
    ranked: Sequence[tuple[Spec, Match]],
    find_problem: Callable[[Spec], str | None],
    problems: list[str],
) -> tuple[Spec | None, str]:
    """Take the first that passes its round trip, else the best."""
    failures: list[str] = []
    for spec, match in ranked:
        try:
            problem = find_problem(spec)
        except NotShown as error:
            equals = [other.name for other, its in ranked if its.score == match.score]
            if len(equals) > 1:
                problems.append(
                    f"the dialects {', '.join(map(repr, equals))} fit equally well, and {error}: "
                    f"{spec.name!r} is taken; name one in the config to be sure"
                )
            return spec, f"{spec.name}, as {match.reason}; not tried, as {error}"
        except LlmplugError as error:
            problem = f"the template refused the test: {error}"
        except Exception as error:  # noqa: BLE001 - a plugin's parser may raise anything
            problem = f"its parser failed: {error!r}"
        if problem is None:
            return spec, f"{spec.name}, as {match.reason}; what the template writes is read back"
        failures.append(
            f"the dialect {spec.name!r} does not read what the template writes: {problem}"
        )
    if not ranked:
        return None, "none fits"
    problems.append(failures[0])
    spec, match = ranked[0]
    return spec, f"{spec.name}, as {match.reason}, though {failures[0]}"
