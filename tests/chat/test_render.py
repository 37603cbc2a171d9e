"""Ids of conversations are equal to transformers', and what a renderer is asked for is checked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmplug import CheckpointError, InvalidRequest, TemplateError, UnsupportedParameter
from llmplug.chat.render import ChatRenderer
from llmplug.chat.tokenizer import Tokenizer

from .dialects import DIALECTS, PLAIN
from .rendering import (
    HARMLESS,
    TEXT,
    Messages,
    control_of,
    reference,
    reference_ids,
    renderer,
    talk,
)
from .vocabularies import FAMILIES, build, cached, files_of

TALKS = [
    talk("the quick brown fox"),
    talk("hello", "the fox", "  two  spaces \n", "\n\nlazy  "),
    talk("émoji 😀 漢字", "", "a <b>bold</b> | [x]"),
    talk("> quote", "x <", "|> odd", "im_start"),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("messages", TALKS, ids=range(len(TALKS)))
def test_equals_transformers(family: str, dialect: str, messages: Messages) -> None:
    ours = renderer(family, dialect)
    assert ours.render(messages) == reference_ids(family, dialect, messages)
    text = reference(family, dialect).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert ours.render_text(messages) == text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dialect", DIALECTS)
@given(texts=st.lists(TEXT, min_size=1, max_size=4))
@settings(max_examples=10, deadline=None)
def test_equals_transformers_where_nothing_is_spelled(
    family: str, dialect: str, texts: list[str]
) -> None:
    # Thinking that the template takes out of an answer was spelled, though no id shows it.
    assume(dialect != "thinking" or "think>" not in "".join(texts))
    expected = reference_ids(family, dialect, talk(*texts))
    harmless = reference_ids(family, dialect, talk(*[HARMLESS for _ in texts]))
    tokenizer = cached(family)
    assume(control_of(tokenizer, expected) == control_of(tokenizer, harmless))
    assert renderer(family, dialect).render(talk(*texts)) == expected


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("texts", [["the fox"], ["a", "b  "], ["a", "b\n"], ["a", " c"]])
def test_continuing_equals_transformers(dialect: str, texts: list[str]) -> None:
    messages = talk(*texts)
    options = {"add_generation_prompt": False, "continue_final_message": True}
    if dialect == "changes":  # shows the message three times; which one to continue is open
        return
    ids = renderer("byte_level", dialect).render(messages, **options)
    assert ids == reference_ids("byte_level", dialect, messages, **options)


def test_prompts_in_the_middle_have_no_prefix_space() -> None:
    """Metaspace puts a space before the first piece of the whole text only."""
    for family in ("metaspace_first", "unigram", "sentencepiece"):
        messages = talk("the", "quick", "the")
        ids = renderer(family, "brackets").render(messages)
        assert ids == reference_ids(family, "brackets", messages), family


# --- the head of an answer ----------------------------------------------------------------------
THINKING = (
    PLAIN
    + "{% if add_generation_prompt %}{{ '<think>' if thinks else '<think></think>' }}{% endif %}"
)


@pytest.mark.parametrize("text", ["a", "a<think>", "</think>", "<|im_start|>assistant\n<think>"])
@pytest.mark.parametrize("family", FAMILIES)
def test_head_of_an_answer_is_the_templates(family: str, text: str) -> None:
    ours = ChatRenderer(cached(family), THINKING)
    for thinks, head in ((True, "<think>"), (False, "<think></think>")):
        options: dict[str, Any] = {"template_kwargs": {"thinks": thinks}}
        prompt = ours.render_prompt(talk(text), **options)
        assert prompt.ids == ours.render(talk(text), **options)
        assert prompt.end == "<|im_start|>assistant\n" + head
    bare = ours.render_prompt(talk(text), add_generation_prompt=False)
    assert bare.end == ""


def test_head_of_an_answer_where_a_template_changes_its_mind() -> None:
    ours = ChatRenderer(
        cached("byte_level"),
        "{{ messages[-1].content }}{{ 'x<think>' if add_generation_prompt else 'xyz' }}",
    )
    assert ours.render_prompt(talk("a")).end == "<think>"


# --- options ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["messages", "tools", "eos_token", "raise_exception", "range"])
def test_reserved_variables_are_refused(name: str) -> None:
    tokenizer = Tokenizer(files_of(build("byte_level"), eos_token="<|im_end|>"))
    with pytest.raises(InvalidRequest, match="not yours") as caught:
        ChatRenderer(tokenizer, PLAIN).render(talk("a"), template_kwargs={name: "x"})
    assert caught.value.param == f"chat_template_kwargs.{name}"


def test_unknown_variables_are_refused() -> None:
    ours = ChatRenderer(cached("byte_level"), "{{ style }}" + PLAIN)
    assert ours.variables == {"style"}
    with pytest.raises(UnsupportedParameter, match="it reads: style"):
        ours.render(talk("a"), template_kwargs={"thinking": True})


def test_continuing_and_prompting_exclude_each_other() -> None:
    with pytest.raises(InvalidRequest, match="exclude") as caught:
        renderer("byte_level", "plain").render(talk("a", "b"), continue_final_message=True)
    assert caught.value.param == "continue_final_message"


def test_a_message_that_is_not_shown_cannot_be_continued() -> None:
    ours = ChatRenderer(cached("byte_level"), "{{ messages[0].content }}")
    with pytest.raises(TemplateError, match="cannot be continued"):
        ours.render(talk("a", "b"), add_generation_prompt=False, continue_final_message=True)


def test_continuing_needs_content() -> None:
    with pytest.raises(InvalidRequest, match="no content") as caught:
        renderer("byte_level", "plain").render(
            talk("a", ""), add_generation_prompt=False, continue_final_message=True
        )
    assert caught.value.param == "messages[1].content"


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [("plain", "<|im_end|>"), ("brackets", "<|im_end|>"), ("tools", "<|im_end|>")],
)
def test_end_of_an_answer(dialect: str, expected: str) -> None:
    end = renderer("byte_level", dialect).find_answer_end()
    assert end == cached("byte_level").id_of(expected)


def test_templates_without_an_end_have_none() -> None:
    ours = ChatRenderer(
        cached("byte_level"), "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    )
    assert ours.find_answer_end() is None


def test_syntax_errors_are_the_checkpoints() -> None:
    with pytest.raises(CheckpointError, match="line 2"):
        ChatRenderer(cached("byte_level"), "a\n{% for %}")


def test_special_tokens_are_variables() -> None:
    tokenizer = Tokenizer(files_of(build("sentencepiece"), bos_token="<s>", eos_token="</s>"))
    ours = ChatRenderer(tokenizer, "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    assert ours.render_text(talk("<s>")) == "<s><s></s>"
    ids = ours.render(talk("<s>"))
    assert (ids[0], ids[-1]) == (1, 2)
    assert not {1, 2} & set(ids[1:-1])
