"""The backend xgrammar does what the other one does, or says that it does not."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("xgrammar", reason="an extra: llmplug[xgrammar]")

from llmplug import GrammarError
from llmplug.grammar import Json, Node, OneOf, Regex, Seq, Text
from llmplug_xgrammar.backend import XgrammarBackend
from llmplug_xgrammar.schema import FOLLOWED

from . import grammar_cases as cases


@pytest.fixture(scope="module")
def backend() -> XgrammarBackend:
    return XgrammarBackend(cases.make_vocabulary())


@pytest.mark.parametrize("case", cases.STRICT + cases.TREES + cases.LARK, ids=str)
def test_answers_are_those_that_fit(backend: XgrammarBackend, case: cases.Case) -> None:
    found = {text: cases.is_answer(backend, case.node, text) for text, _ in cases.texts_of(case)}
    assert found == dict(cases.texts_of(case))


@pytest.mark.parametrize("case", cases.FURTHER, ids=str)
def test_further_keywords_are_followed_or_refused_by_name(
    backend: XgrammarBackend, case: cases.Case
) -> None:
    if set(case.keywords) <= FOLLOWED:
        found = {t: cases.is_answer(backend, case.node, t) for t, _ in cases.texts_of(case)}
        assert found == dict(cases.texts_of(case))
    else:
        with pytest.raises(GrammarError, match="|".join(case.keywords)):
            backend.compile(case.node)


@pytest.mark.parametrize(("node", "words"), cases.REFUSED, ids=lambda value: str(value)[:60])
def test_what_cannot_be_followed_is_refused_by_name(
    backend: XgrammarBackend, node: Node, words: str
) -> None:
    with pytest.raises(GrammarError, match=words):
        backend.compile(node)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": {}}}, r"'\$ref' beside 'minimum'"),
        ({"anyOf": [{"type": "string"}], "minLength": 3}, "'anyOf' beside 'minLength'"),
        ({"enum": ["a"], "type": "integer"}, "'enum' beside 'type'"),
        ({"type": "string", "pattern": "a", "minLength": 3}, "'pattern' beside 'minLength'"),
        ({"type": "string", "format": "date", "pattern": "a"}, "'pattern' beside 'format'"),
        ({"minLength": 3}, "'minLength' with the type None"),
        ({"type": ["string", "null"], "format": "date"}, "'format' with the type"),
        ({"type": "object", "required": ["z"]}, "'required' of 'z'"),
        ({"items": {"type": "string", "pattern": r"\bA"}, "type": "array"}, "boundaries"),
    ],
)
def test_what_the_library_would_pass_over_is_refused(
    backend: XgrammarBackend, schema: Any, words: str
) -> None:
    with pytest.raises(GrammarError, match=words):
        backend.compile(Json(schema))


def test_values_may_stand_beside_their_type(backend: XgrammarBackend) -> None:
    node = Json({"type": "string", "enum": ["a", "b"]})
    assert cases.is_answer(backend, node, '"b"')
    assert not cases.is_answer(backend, node, '"c"')


def test_control_tokens_stand_where_the_tree_spells_them_and_nowhere_else(
    backend: XgrammarBackend,
) -> None:
    state = backend.compile(Seq([Text("<call>"), Regex("[^x]*"), Text("</call>")])).start()
    assert cases.allowed_ids(state) == [cases.CONTROL["<call>"]]
    assert state.accept(cases.CONTROL["<call>"])
    assert {i for i in cases.allowed_ids(state) if i >= 256} == {cases.CONTROL["</call>"]}


def test_an_answer_is_done_where_nothing_but_an_end_may_follow(backend: XgrammarBackend) -> None:
    state = backend.compile(OneOf([Text("a"), Text("ab")])).start()
    assert state.accept(ord("a"))
    assert not state.is_done
    assert not state.accept(ord("c"))
    assert cases.allowed_ids(state) == [ord("b"), cases.END]
    assert state.accept(ord("b"))
    assert state.is_done
