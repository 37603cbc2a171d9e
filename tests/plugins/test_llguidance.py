"""The backend llguidance."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Annotated, Literal

import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict, Field

import llmplug_xgrammar
from llmplug import GrammarError
from llmplug.grammar import Json, Lark, OneOf, Text
from llmplug.json_schema import ANNOTATIONS
from llmplug.testing import byte_answers, check_grammar
from llmplug.testing import grammar_cases as cases
from llmplug_llguidance import llmplug_grammars
from llmplug_llguidance.backend import LlguidanceBackend
from llmplug_llguidance.schema import FOLLOWED, prepare_schema

KNOWN = cases.STRICT + cases.FURTHER


@pytest.fixture(scope="module")
def backend() -> LlguidanceBackend:
    return LlguidanceBackend(byte_answers.make_vocabulary())


def test_the_hook_offers_what_opens_a_vocabulary() -> None:
    (spec,) = llmplug_grammars()
    assert spec.name == "llguidance"
    assert isinstance(spec.open(byte_answers.make_vocabulary()), LlguidanceBackend)


def test_the_hook_offers_a_backend_that_comes_before_the_extra_one() -> None:
    (spec,), (extra,) = llmplug_grammars(), llmplug_xgrammar.llmplug_grammars()
    assert (spec.name, extra.name) == ("llguidance", "xgrammar")
    assert spec.priority > extra.priority
    assert byte_answers.is_answer(spec.open(byte_answers.make_vocabulary()), Text("yes"), "yes")


def test_what_holds_for_every_backend() -> None:
    (spec,) = llmplug_grammars()
    check_grammar(spec, more=[*cases.FURTHER, *cases.LARK])


def test_every_keyword_that_is_followed_has_a_case() -> None:
    shown = {keyword for case in KNOWN for keyword in case.keywords}
    assert shown >= FOLLOWED


def test_the_page_says_which_keywords_are_followed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "structured-output.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|.*\| ([^|]+) \|$", page.partition("## JSON schemas")[2], re.M)
    followed = {word for words, said in rows for word in keywords_in(words) if "400 (" not in said}
    refused = {word for words, said in rows for word in keywords_in(words) if "400 (" in said}
    assert followed - ANNOTATIONS - {"x-..."} == FOLLOWED
    for keyword in refused:
        with pytest.raises(GrammarError, match=re.escape(keyword)):
            prepare_schema({keyword: True})


def keywords_in(text: str) -> list[str]:
    return re.findall("`([^`]+)`", text)


def test_annotations_and_neutral_values_change_nothing(backend: LlguidanceBackend) -> None:
    schema = {
        "title": "T",
        "description": "D",
        "x-order": 1,
        "type": "array",
        "uniqueItems": False,
        "items": {"type": "integer", "nullable": False, "examples": [1]},
    }
    assert byte_answers.is_answer(backend, Json(schema), "[1, 1]")
    assert schema["uniqueItems"] is False, "what was given stays as it was"


def test_what_steers_the_library_is_not_taken_from_requests(backend: LlguidanceBackend) -> None:
    inner = {"type": "object", "x-guidance": {"whitespace_flexible": True}}
    for schema in (inner, {"properties": {"a": inner}}):
        with pytest.raises(GrammarError, match="x-guidance"):
            backend.compile(Json(schema))


def test_branches_of_one_of_that_overlap_are_refused_in_plain_words(
    backend: LlguidanceBackend,
) -> None:
    with pytest.raises(GrammarError, match="use 'anyOf'"):
        backend.compile(Json({"oneOf": [{"type": "integer"}, {"type": "number"}]}))


class Address(BaseModel):
    model_config = ConfigDict(extra="forbid")
    street: Annotated[str, Field(max_length=8)]
    number: int | None


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=5)]
    kind: Literal["a", "b"]
    homes: Annotated[list[Address], Field(max_length=2)]
    score: Annotated[int, Field(ge=-3, le=99)] = 0


def test_whatever_is_chosen_among_the_allowed_fits_the_schema(backend: LlguidanceBackend) -> None:
    rng = random.Random(5)
    node = Json(Person.model_json_schema())
    texts = [byte_answers.sample(backend, node, rng) for _ in range(60)]
    ended = [text for text in texts if text is not None]
    assert len(ended) > 20
    for text in ended:
        Person.model_validate_json(text)
        keys = list(json.loads(text))
        assert keys == ["name", "kind", "homes", "score"][: len(keys)], "the schema's order"


JSON_CASES = [case for case in KNOWN if isinstance(case.node, Json)]


@pytest.mark.parametrize("case", JSON_CASES, ids=str)
def test_whatever_is_chosen_fits_for_another_judge_too(
    backend: LlguidanceBackend, case: cases.Case
) -> None:
    assert isinstance(case.node, Json)
    is_older = "additionalItems" in case.keywords  # which the newest draft has dropped
    draft = jsonschema.Draft7Validator if is_older else jsonschema.Draft202012Validator
    judge = draft(case.node.schema, format_checker=draft.FORMAT_CHECKER)
    rng = random.Random(7)
    texts = [byte_answers.sample(backend, case.node, rng) for _ in range(12)]
    ended = [text for text in texts if text is not None]
    assert ended
    for text in ended:
        judge.validate(json.loads(text))


def test_masks_beyond_the_budget_end_the_answer(backend: LlguidanceBackend) -> None:
    """Every part of the text may belong to any other: the ways to read it grow without end."""
    state = backend.compile(Lark('start: x\nx: x x | x x x | "a"')).start()

    def follow() -> None:
        for _ in range(1000):
            byte_answers.allowed_ids(state)
            state.accept(ord("a"))

    with pytest.raises(GrammarError, match="max is"):
        follow()


def test_a_choice_may_hold_very_many_texts(backend: LlguidanceBackend) -> None:
    node = OneOf([Text(f"word{i}") for i in range(20_000)])
    assert byte_answers.is_answer(backend, node, "word19999")
    assert not byte_answers.is_answer(backend, node, "word20000")
