"""Special tokens that a parser must see stay in the text, and no other one."""

from __future__ import annotations

import pytest

from llmplug.chat.detokenize import Detokenizer
from llmplug.chat.marker_tokens import find_marker_ids, find_markers
from llmplug.dialect import JsonCalls, ReasoningSyntax, TaggedCalls, in_template
from llmplug.specs import ReasoningParserSpec, ToolParserSpec

from .vocabularies import CONTROL, FAMILIES, GENERATING, SPECIAL, cached

NEVER = in_template("x")


def make_tools(*syntax: JsonCalls | TaggedCalls) -> ToolParserSpec:
    return ToolParserSpec(name="toy", detect=NEVER, syntax=syntax)


@pytest.mark.parametrize("name", GENERATING)
def test_markers_stay_and_other_special_tokens_go(name: str) -> None:
    tokenizer = cached(name)
    control = {text: tokenizer.id_of(text) for text in CONTROL}
    spec = make_tools(JsonCalls(start=("[INST]",), end="tail[/INST]tail"))
    shown = find_marker_ids(tokenizer, spec)
    assert shown == {control["[INST]"], control["[/INST]"]} & tokenizer.special_ids
    ids = [id_ for id_ in control.values() if id_ is not None]
    detokenizer = Detokenizer(tokenizer, shown_ids=shown)
    text = detokenizer.feed(ids) + detokenizer.finish()
    for marker in CONTROL:
        is_hidden = marker in SPECIAL and marker not in {"[INST]", "[/INST]"}
        assert (marker in text) is not is_hidden


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_that_are_shown_change_nothing_else(name: str) -> None:
    """All of them shown is the same as none skipped."""
    tokenizer = cached(name)
    ids = [*tokenizer.encode("the quick", add_special_tokens=False), *sorted(tokenizer.special_ids)]
    detokenizer = Detokenizer(tokenizer, shown_ids=tokenizer.special_ids)
    text = "".join(detokenizer.feed([id_]) for id_ in ids) + detokenizer.finish()
    assert text == tokenizer.decode(ids, skip_special_tokens=False)


def test_markers_are_found_wherever_a_table_holds_them() -> None:
    spec = make_tools(
        TaggedCalls(
            section=("<s>", "</s>"),
            name=("<n>", "</n>"),
            key=("<k>", {"</k>": "text", "</j>": "json"}),
            value=("", "</v>"),
            end="</e>",
        )
    )
    markers = set(find_markers(spec))
    assert markers >= {"<s>", "</s>", "<n>", "</n>", "<k>", "</k>", "</j>", "</v>", "</e>"}
    assert "" not in markers


def test_parser_made_by_hand_sees_all() -> None:
    tokenizer = cached(GENERATING[0])
    by_hand = ReasoningParserSpec(name="toy", detect=NEVER, make=lambda _: NotImplemented)
    by_table = ReasoningParserSpec(
        name="toy", detect=NEVER, syntax=ReasoningSyntax(start=("<a>",), end="</a>")
    )
    assert find_marker_ids(tokenizer, by_hand) == tokenizer.special_ids
    assert find_marker_ids(tokenizer, by_table, None) == frozenset()
