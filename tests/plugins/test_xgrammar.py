"""The backend xgrammar does what the other one does, or says that it does not."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("xgrammar", reason="an extra: llmplug[xgrammar]")

from llmplug import GrammarError
from llmplug.grammar import Json, OneOf, Text
from llmplug.testing import byte_answers, check_grammar
from llmplug.testing import grammar_cases as cases
from llmplug_xgrammar import llmplug_grammars
from llmplug_xgrammar.backend import XgrammarBackend
from llmplug_xgrammar.schema import FOLLOWED


@pytest.fixture(scope="module")
def backend() -> XgrammarBackend:
    return XgrammarBackend(byte_answers.make_vocabulary())


def test_what_holds_for_every_backend() -> None:
    (spec,) = llmplug_grammars()
    followed = [case for case in cases.FURTHER if set(case.keywords) <= FOLLOWED]
    check_grammar(spec, more=[*followed, *cases.LARK])


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
    assert byte_answers.is_answer(backend, node, '"b"')
    assert not byte_answers.is_answer(backend, node, '"c"')


def test_an_answer_is_done_where_nothing_but_an_end_may_follow(backend: XgrammarBackend) -> None:
    state = backend.compile(OneOf([Text("a"), Text("ab")])).start()
    assert state.accept(ord("a"))
    assert not state.is_done
    assert not state.accept(ord("c"))
    assert byte_answers.allowed_ids(state) == [ord("b"), byte_answers.END]
    assert state.accept(ord("b"))
    assert state.is_done
