"""What forced calls and whole answers look like, and that it is read as it was meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings

from llmplug import GrammarError, ToolParserSpec
from llmplug.chat.call_grammar import build_answer_grammar, build_call_grammar
from llmplug.chat.channels import Dialect
from llmplug.dialect import NO_MATCH, JsonCalls, Tool
from llmplug.errors import UnsupportedParameter
from llmplug.grammar import Json, Node, OneOf, Regex, Text, Vocabulary
from llmplug.testing.answers import TOOLS, read
from llmplug.testing.call_writing import Call, write_calls
from llmplug.testing.grammar_texts import texts_of
from llmplug_llguidance.backend import LlguidanceBackend

from .call_tables import (
    BARE,
    FENCED,
    LIST,
    NAMED,
    OBJECTS,
    TABLES,
    TAGGED_OBJECT,
    THINKING,
    WITH_ID,
    make_tools,
)

_END = 256
_CONTROL = {"<one_call>": 257, "<think>": 258, "</think>": 259}
CALLS = [Call("f", {"text": "a"}), Call("find", {"text": "b", "count": 2})]


def allows(node: Node, text: str, control: dict[str, int] | None = None) -> bool:
    """Whether a real backend takes a text, byte by byte, and may end behind it."""
    vocabulary = Vocabulary(
        token_bytes=[bytes([each]) for each in range(256)] + [b""] * 4,
        control_ids=control or {},
        end_ids=frozenset({_END}),
        encode=lambda text: list(text.encode()),
    )
    state = LlguidanceBackend(vocabulary).compile(node).start()
    ids: list[int] = []
    for piece in vocabulary.split(text):
        ids += [piece] if isinstance(piece, int) else piece.encode()
    is_allowed = all(state.accept(each) for each in ids)
    return is_allowed and (state.is_done or state.accept(_END))


# --- calls --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TABLES)
def test_calls_in_the_tables_own_words_are_allowed(name: str) -> None:
    table = TABLES[name][0]
    node = build_call_grammar(make_tools(table), TOOLS, least=1, most=None)
    for calls in (CALLS[:1], CALLS):
        text = write_calls(table, calls)
        # What is written by hand varies where models do; the grammar's own text is one of these.
        own = [text, text.replace("; ", "\n")]
        own += [each.replace('"arguments"', '"parameters"') for each in own]
        assert any(allows(node, each) for each in own), text
        assert not any(allows(node, each[:-1]) for each in own)
    for calls in ([], [Call("other", {"text": "a"})], [Call("f", {})], [Call("f", {"text": 1})]):
        assert not allows(node, write_calls(table, calls))


@pytest.mark.parametrize("table", [TAGGED_OBJECT, LIST, OBJECTS, NAMED, FENCED])
@pytest.mark.parametrize(("least", "most"), [(1, 1), (0, 1), (0, None), (2, 2), (2, None)])
def test_there_are_as_many_calls_as_there_may_be(table: Any, least: int, most: int | None) -> None:
    node = build_call_grammar(make_tools(table), TOOLS, least=least, most=most)
    for number in (1, 2, 3):
        text = write_calls(table, [Call("f", {"text": "a"})] * number)
        text = text.replace("; ", "\n")
        is_wanted = least <= number <= (number if most is None else most)
        assert allows(node, text) == is_wanted


def test_markers_that_are_control_tokens_stand_for_them() -> None:
    node = build_call_grammar(make_tools(TAGGED_OBJECT), TOOLS, least=1, most=1)
    text = write_calls(TAGGED_OBJECT, CALLS[:1])
    assert allows(node, text, _CONTROL)
    assert not allows(node, text.replace("<one_call>", "<one_call >"), _CONTROL)


def test_ids_count_in_any_turn() -> None:
    node = build_call_grammar(make_tools(WITH_ID), TOOLS, least=1, most=1)
    text = write_calls(WITH_ID, [Call("f", {"text": "a"})])
    assert all(allows(node, text.replace(":0", f":{index}")) for index in (0, 7, 12))
    assert not allows(node, text.replace(":0", ":"))
    assert not allows(node, text.replace(":0", ":01"))


@pytest.mark.parametrize(
    ("parameters", "good", "bad"),
    [
        ({}, ['{"a": [1]}', "{}"], ["[]", "1"]),
        ({"properties": {"a": {"type": "integer"}}}, ['{"a": 1}'], ['"x"', '{"a": ""}']),
        ({"type": ["object", "null"]}, ["{}"], ["null"]),
    ],
)
def test_arguments_are_objects(parameters: dict[str, Any], good: list[str], bad: list[str]) -> None:
    node = build_call_grammar(make_tools(NAMED), [Tool("f", parameters)], least=1, most=1)
    for arguments, is_good in [*((each, True) for each in good), *((each, False) for each in bad)]:
        assert allows(node, f"[ONE_CALL]f[ARGS]{arguments}") == is_good


def test_arguments_that_cannot_be_an_object_are_refused() -> None:
    with pytest.raises(GrammarError, match="'f' must be an object"):
        build_call_grammar(make_tools(NAMED), [Tool("f", {"type": "string"})], least=1, most=1)


def test_a_parser_by_hand_without_a_grammar_cannot_be_forced() -> None:
    tools = ToolParserSpec(name="hand", detect=lambda *_: NO_MATCH, make=lambda _: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(UnsupportedParameter, match="'hand'"):
        build_call_grammar(tools, TOOLS, least=1, most=1)


# --- answers ------------------------------------------------------------------------------------
def answer_grammar(
    dialect: Dialect,
    choice: Literal["none", "auto", "required"],
    *,
    prompt_end: str = "",
    text: Node | None = None,
    most: int | None = None,
) -> Node:
    """The grammar of an answer that may call the usual tools."""
    return build_answer_grammar(
        dialect, TOOLS, choice=choice, most=most, text=text, prompt_end=prompt_end
    )


JSON_CALL = write_calls(TAGGED_OBJECT, CALLS[:1])
BARE_CALL = '{"name": "f", "parameters": {"text": "a"}}'
WRONG = "<one_call>\n{}\n</one_call>"
FORM = OneOf([Text("yes"), Text("no")])


@pytest.mark.parametrize(
    ("choice", "form", "good", "bad"),
    [
        ("none", None, ["", "so", "{"], []),
        ("none", FORM, ["yes", "no"], ["", "so", JSON_CALL]),
        ("auto", None, ["", "so <one_ {", JSON_CALL, f"so {JSON_CALL}"], [WRONG, f"so {WRONG}"]),
        ("auto", FORM, ["yes", JSON_CALL], ["so", f"yes {JSON_CALL}", WRONG]),
        ("required", None, [JSON_CALL, f"{JSON_CALL}\n{JSON_CALL}"], ["", "so", WRONG]),
    ],
)
@pytest.mark.parametrize("control", [{}, _CONTROL], ids=["text", "control tokens"])
def test_an_answer_keeps_to_the_choice(
    choice: Literal["none", "auto", "required"],
    form: Node | None,
    good: Sequence[str],
    bad: Sequence[str],
    control: dict[str, int],
) -> None:
    node = answer_grammar(Dialect(None, make_tools(TAGGED_OBJECT)), choice, text=form)
    thinking = answer_grammar(Dialect(THINKING, make_tools(TAGGED_OBJECT)), choice, text=form)
    for texts, is_good in ((good, True), (bad, False)):
        for text in texts:
            assert allows(node, text, control) == is_good, text
            assert allows(thinking, f"<think>so?</think>\n\n{text}", control) == is_good, text


@pytest.mark.parametrize(
    ("prompt_end", "good", "bad"),
    [
        ("", ["yes", "<think>a < b</think>\nyes"], ["a</think>yes", "<think>a"]),
        ("<think>\n", ["a </think>yes", "</think>\n\nno"], ["yes", "a</think>so", "a"]),
        ("<think>\n\n</think>\n", ["yes"], ["<think>a</think>yes", "a</think>yes"]),
    ],
)
@pytest.mark.parametrize("control", [{}, _CONTROL], ids=["text", "control tokens"])
def test_the_form_holds_from_the_end_of_thinking_on(
    prompt_end: str, good: Sequence[str], bad: Sequence[str], control: dict[str, int]
) -> None:
    node = answer_grammar(Dialect(THINKING), "none", prompt_end=prompt_end, text=FORM)
    assert all(allows(node, text, control) for text in good)
    assert not any(allows(node, text, control) for text in bad)


@pytest.mark.parametrize("tables", [(BARE,), (BARE, OBJECTS), (OBJECTS, BARE)])
def test_strict_tools_cannot_be_called_in_bare_words_of_another_form(
    tables: tuple[JsonCalls, ...],
) -> None:
    node = answer_grammar(Dialect(None, make_tools(*tables)), "auto")
    assert all(allows(node, text) for text in ("", "so {", "Yes."))
    wrong = BARE_CALL.replace('"a"', "1")
    assert not any(allows(node, text) for text in (wrong, f"\n{wrong}", '[{"name": "f"}]'))
    assert allows(node, BARE_CALL) == (tables[0] is BARE)


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("prompt_end", ["", "<think>", "<think></think>"])
@pytest.mark.parametrize("name", TABLES)
def test_what_is_allowed_is_read_as_it_was_meant(
    name: str, choice: Literal["auto", "required"], prompt_end: str
) -> None:
    tools = make_tools(*TABLES[name])
    node = answer_grammar(Dialect(THINKING, tools), choice, prompt_end=prompt_end)

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(text=texts_of(node))
    def check(text: str) -> None:
        answer = read([text], tools, THINKING, prompt_end=prompt_end)
        assert all(call.is_complete for call in answer.calls), text
        assert all(call.name in {tool.name for tool in TOOLS} for call in answer.calls)
        if choice == "required":
            assert answer.calls, text
            assert answer.content == "", text

    check()


def test_equal_wishes_are_equal_grammars() -> None:
    """Grammars are cached by what they say."""
    dialect = Dialect(THINKING, make_tools(NAMED))
    assert answer_grammar(dialect, "auto") == answer_grammar(dialect, "auto")
    assert answer_grammar(dialect, "auto") != answer_grammar(dialect, "required")
    schema = Json({"type": "integer"})
    assert answer_grammar(dialect, "none", text=schema) != answer_grammar(
        dialect, "none", text=Regex("1")
    )
