"""The dialect that fits best and reads what the template writes is taken; doubts are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from llmplug import ReasoningParserSpec, ToolParserSpec
from llmplug.chat.channels import Dialect
from llmplug.chat.choose_dialect import Evidence, as_named, choose_dialect
from llmplug.dialect import (
    AnswerContext,
    Detect,
    JsonCalls,
    Match,
    Parser,
    ReasoningSyntax,
    in_template,
)

from .test_round_trip import CALL, THOUGHT, make_renderer

TOOL_CALLS = JsonCalls(start=("<tool>",), end="</tool>")
OTHER_CALLS = JsonCalls(start=("<other>",), end="</other>")
THINKING = ReasoningSyntax(start=("<think>",), end="</think>")


def fits(score: float) -> Detect:
    return lambda *_: Match(score, "it says so")


def calls(name: str, score: float, syntax: JsonCalls = TOOL_CALLS) -> ToolParserSpec:
    return ToolParserSpec(name=name, detect=fits(score), syntax=(syntax,))


def thinking(name: str, score: float) -> ReasoningParserSpec:
    return ReasoningParserSpec(name=name, detect=fits(score), syntax=THINKING)


def choose(
    *specs: ToolParserSpec | ReasoningParserSpec, call: str = CALL, thought: str = ""
) -> tuple[Dialect, str]:
    evidence = Evidence(
        template="the template",
        config={"model_type": "x"},
        vocabulary=frozenset({"a"}),
        renderer=make_renderer(call, thought),
    )
    return choose_dialect(
        [spec for spec in specs if isinstance(spec, ToolParserSpec)],
        [spec for spec in specs if isinstance(spec, ReasoningParserSpec)],
        evidence,
    )


def names(dialect: Dialect) -> tuple[str | None, str | None]:
    tools, reasoning = dialect.tools, dialect.reasoning
    return tools.name if tools else None, reasoning.name if reasoning else None


def test_the_best_that_reads_back_is_taken() -> None:
    dialect, why = choose(
        calls("low", 0.2),
        calls("wrong", 0.9, OTHER_CALLS),
        calls("high", 0.8),
        thinking("t", 0.1),
        thought=THOUGHT,
    )
    assert names(dialect) == ("high", "t")
    assert dialect.problems == ()
    assert why == (
        "calls: high, as it says so; what the template writes is read back; "
        "thinking: t, as it says so; what the template writes is read back"
    )


def test_what_does_not_fit_is_not_tried() -> None:
    dialect, why = choose(calls("no", 0.0), thinking("no", 0.0))
    assert names(dialect) == (None, None)
    assert dialect.problems == ()
    assert why == "calls: none fits; thinking: none fits"


def test_where_none_reads_back_the_best_is_taken_and_its_fault_told() -> None:
    dialect, why = choose(calls("a", 0.5, OTHER_CALLS), calls("b", 0.9, OTHER_CALLS))
    assert names(dialect) == ("b", None)
    (problem,) = dialect.problems
    assert problem.startswith("the dialect 'b' does not read what the template writes: ")
    assert "read were no calls" in problem
    assert problem in why


def test_equals_are_told_where_the_template_cannot_decide() -> None:
    specs = (calls("b", 0.5), calls("a", 0.5), calls("c", 0.4))
    dialect, _ = choose(*specs, call="")
    assert names(dialect) == ("a", None)
    (problem,) = dialect.problems
    assert problem == (
        "the dialects 'a', 'b' fit equally well, and the template has no place for calls: "
        "'a' is taken; name one in the config to be sure"
    )
    assert choose(*specs)[0].problems == ()  # the template decides


def test_one_alone_needs_no_proof() -> None:
    dialect, why = choose(calls("a", 0.5), call="")
    assert (names(dialect), dialect.problems) == (("a", None), ())
    assert why.startswith("calls: a, as it says so; not tried, as the template has no place")


def test_a_plugin_that_fails_is_named_and_passed_over() -> None:
    def fail(template: str, config: Mapping[str, Any], vocabulary: frozenset[str]) -> Match:
        raise KeyError(template)

    def fail_to_make(context: AnswerContext) -> Parser:
        raise RuntimeError("no parser")

    dialect, _ = choose(
        ToolParserSpec(name="broken", detect=fail, syntax=(TOOL_CALLS,)),
        ToolParserSpec(name="unmade", detect=fits(0.9), make=fail_to_make),
        calls("good", 0.1),
    )
    assert names(dialect) == ("good", None)
    told = "the dialect 'broken' failed while it was detected: KeyError('the template')"
    assert dialect.problems == (told,)
    lost = ReasoningParserSpec(name="lost", detect=fits(0.9), make=fail_to_make)
    dialect, _ = choose(lost, thought=THOUGHT)
    assert names(dialect) == (None, "lost")
    (problem,) = dialect.problems
    assert problem.endswith("its parser failed: RuntimeError('no parser')")


def test_a_template_that_refuses_is_told_in_its_own_words() -> None:
    refusing = CALL + "{{ raise_exception('never <b>') if '<b>' in f.arguments.city }}"
    (problem,) = choose(calls("a", 0.5), call=refusing)[0].problems
    assert problem.endswith("the template refused the test: never <b>")


def test_detect_is_given_template_config_and_vocabulary() -> None:
    given: list[tuple[Any, ...]] = []

    def detect(*evidence: Any) -> Match:
        given.append(evidence)
        return Match(0.0, "")

    choose(ToolParserSpec(name="a", detect=detect, syntax=(TOOL_CALLS,)))
    assert given == [("the template", {"model_type": "x"}, frozenset({"a"}))]


@pytest.mark.parametrize("spec", [calls("a", 0.0), thinking("a", 0.0)])
def test_what_a_config_names_fits(spec: Any) -> None:
    thought = THOUGHT if isinstance(spec, ReasoningParserSpec) else ""
    dialect, why = choose(as_named(spec), thought=thought)
    assert "a" in names(dialect)
    assert "a, as the config names it; what the template writes is read back" in why


def test_thinking_is_taken_into_account_where_calls_are_read() -> None:
    """Every answer begins with a block of thinking, which is no text beside the call."""
    alone, _ = choose(calls("a", 0.5), thought=THOUGHT)
    assert "text was left beside the call" in alone.problems[0]
    together, _ = choose(calls("a", 0.5), thinking("t", 0.5), thought=THOUGHT)
    assert together.problems == ()


def test_detecting_by_words_of_a_template() -> None:
    detect = in_template("<a>", "<b>", unless=("<c>",), score=0.7)
    assert detect("<b> <a>", {}, frozenset()) == Match(0.7, "its template writes <a>, <b>")
    assert detect("<a>", {}, frozenset()).score == 0
    assert detect("<a><b><c>", {}, frozenset()).score == 0
