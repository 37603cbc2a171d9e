"""Control ids are the template's alone, whatever the texts of a conversation spell."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmplug import InvalidRequest
from llmplug.chat.render import ChatRenderer
from llmplug.chat.tokenizer import Tokenizer

from .dialects import DIALECTS, PLAIN
from .rendering import (
    HARMLESS,
    TEXT,
    Messages,
    control_of,
    make_tool,
    reference_ids,
    renderer,
    talk,
)
from .vocabularies import CONTROL, FAMILIES, build, cached, reference_of


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name != "thinking"])
@given(texts=st.lists(TEXT, min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_no_text_changes_the_control_ids(family: str, dialect: str, texts: list[str]) -> None:
    tokenizer = cached(family)
    ours = renderer(family, dialect)
    spelled = control_of(tokenizer, ours.render(talk(*texts)))
    assert spelled == control_of(tokenizer, ours.render(talk(*[HARMLESS for _ in texts])))


@given(texts=st.lists(TEXT, min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_thinking_templates_write_thinking_tokens_only(texts: list[str]) -> None:
    """What these read in messages decides what they write; the frame of turns stays as it is."""
    tokenizer = cached("byte_level")
    ours = renderer("byte_level", "thinking")
    start, end, think, stop = (
        tokenizer.id_of(t) for t in ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
    )
    found = control_of(tokenizer, ours.render(talk(*texts)))
    frame = [start, end] * len(texts) + [start]
    assert [id_ for id_ in found if id_ not in (think, stop)] == frame
    assert found.count(think) <= 1
    assert found.count(stop) <= 1


def test_spelled_tokens_stay_readable_as_text() -> None:
    tokenizer = cached("byte_level")
    ours = renderer("byte_level", "plain")
    messages = talk("say <|im_end|> and </think>!")
    assert tokenizer.decode(ours.render(messages), False) == ours.render_text(messages)


def test_thinking_in_an_answer_is_cut_out_of_the_history() -> None:
    messages = talk("q", "<think>\nhm\n</think>\n\nanswer", "next")
    ids = renderer("byte_level", "thinking").render(messages)
    assert ids == renderer("byte_level", "thinking").render(talk("q", "answer", "next"))


def test_thinking_beside_an_answer_is_the_templates_to_write() -> None:
    answer = {"role": "assistant", "content": "answer", "reasoning_content": "hm"}
    messages = [*talk("q"), answer]
    expected = reference_ids("byte_level", "thinking", messages)
    tokenizer = cached("byte_level")
    assert tokenizer.id_of("</think>") in expected
    assert renderer("byte_level", "thinking").render(messages) == expected
    spelled = {**answer, "reasoning_content": "a</think>h<think>b"}
    ids = renderer("byte_level", "thinking").render([*talk("q"), spelled])
    assert ids.count(tokenizer.id_of("</think>")) == 1


@pytest.mark.parametrize("key", ["think", "|im_end|", "THINK"])
def test_keys_complete_no_token(key: str) -> None:
    """The template writes '<' ~ key ~ '>'."""
    ours = renderer("byte_level", "tags")
    tokenizer = cached("byte_level")
    message = {"role": "user", "content": "hello", "extra": {key: "value"}}
    expected = {"role": "user", "content": "hello", "extra": {"other": "value"}}
    found, harmless = (control_of(tokenizer, ours.render([m])) for m in (message, expected))
    assert found == harmless
    assert f"<{key}>value</{key}>" in ours.render_text([message])


@given(text=TEXT)
@settings(max_examples=100, deadline=None)
def test_tools_and_calls_spell_no_control(text: str) -> None:
    tokenizer = cached("byte_level")
    ours = renderer("byte_level", "tools")

    def control(word: str) -> list[int]:
        call = {"type": "function", "function": {"name": word, "arguments": {word: [word]}}}
        messages = [
            {"role": "user", "content": [{"type": "text", "text": word}] * 2},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "name": word, "content": word},
        ]
        return control_of(tokenizer, ours.render(messages, tools=[make_tool(word)]))

    assert control(text) == control(HARMLESS)


def test_tools_equal_transformers() -> None:
    messages = talk("hello <b>")
    tools = [make_tool("look_up"), make_tool('a"b\\c 😀 < >')]
    ids = renderer("byte_level", "tools").render(messages, tools=tools)
    assert ids == reference_ids("byte_level", "tools", messages, tools=tools)


def test_every_token_of_the_real_vocabulary_in_every_place(smollm2: Tokenizer) -> None:
    ours = ChatRenderer(smollm2, PLAIN)
    texts = [smollm2.token_text(id_) for id_ in sorted(smollm2.control_ids)]
    roles = ["system", "user", "assistant", "tool"]

    def messages(word: str, place: int) -> Messages:
        contents = [HARMLESS] * len(roles)
        contents[place] = word
        return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]

    harmless = control_of(smollm2, ours.render(messages(HARMLESS, 0)))
    for text in texts:
        for place in range(len(roles)):
            for word in (text, f"a{text}b", f"  {text}\n", text * 3, text[1:], text[:-1]):
                found = ours.render(messages(word, place))
                assert control_of(smollm2, found) == harmless, (word, place)
                assert smollm2.decode(found, False) == ours.render_text(messages(word, place))


def test_tokens_split_over_messages() -> None:
    """With nothing between messages, a token's halves meet."""
    tokenizer = cached("byte_level")
    ours = renderer("byte_level", "bare")
    for text in CONTROL:
        for at in range(1, len(text)):
            for texts in ((text[:at], text[at:]), ("a", text[:at], text[at:], "b")):
                ids = ours.render(talk(*texts))
                assert control_of(tokenizer, ids) == control_of(tokenizer, ours.render(talk("a")))
                assert tokenizer.decode(ids, False) == "".join(texts) + "<|im_end|>"


def test_variables_of_a_request_are_text_too() -> None:
    tokenizer = cached("byte_level")
    ours = ChatRenderer(tokenizer, "{{ style }}<|im_end|>" + PLAIN)
    spelled = ours.render(talk("a"), template_kwargs={"style": "<|im_start|>"})
    harmless = ours.render(talk("a"), template_kwargs={"style": "b"})
    assert control_of(tokenizer, spelled) == control_of(tokenizer, harmless)


REPR = """\
{%- for m in messages %}{{ '<|im_start|>' ~ m.content.split('</think>')[-1] }}
    {%- for call in m.tool_calls or [] %}
        {%- for key, value in call.function.arguments | dictsort %}
            {{- key ~ '=' ~ ([value] | string) ~ ([value] | tojson(ensure_ascii=true)) }}
        {%- endfor %}
        {{- call.function.arguments | tojson(sort_keys=true) }}
    {%- endfor %}
{%- endfor %}"""


@pytest.mark.parametrize("text", ["</think>", "think", "<|im_end|>", "a\\", "\\ufdd0", "é\ufdd0'"])
@pytest.mark.parametrize("family", FAMILIES)
def test_lists_that_are_shown_as_python_or_ascii(family: str, text: str) -> None:
    """What is spelled in ASCII on the way must neither show nor free a control token."""

    def talk_of(word: str) -> Messages:
        arguments = {"q": word, "o": [word], "think": 1}
        call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
        return [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", "tool_calls": [call]},
        ]

    ours = ChatRenderer(cached(family), REPR)
    expected = reference_of(build(family), REPR).apply_chat_template(talk_of(text), tokenize=False)
    assert ours.render_text(talk_of(text), add_generation_prompt=False) == expected
    found, harmless = (
        control_of(cached(family), ours.render(talk_of(word))) for word in (text, HARMLESS)
    )
    assert found == harmless


DOCUMENTS = """\
{%- for document in documents %}{{ '<|im_start|>' ~ document.title ~ document['text'] }}
    {%- for key, value in document | items %}{{ key ~ value }}{% endfor %}
{%- endfor %}{{ style ~ messages[0].content ~ '<|im_end|>' }}"""


@given(text=TEXT)
@settings(max_examples=100, deadline=None)
def test_documents_and_variables_spell_no_control(text: str) -> None:
    tokenizer = cached("byte_level")
    ours = ChatRenderer(tokenizer, DOCUMENTS)

    def control(word: str) -> list[int]:
        documents = [{"title": word, "text": word, word: word}]
        options = {"style": {word: [word]}}
        ids = ours.render(talk("a"), documents=documents, template_kwargs=options)
        return control_of(tokenizer, ids)

    assert control(text) == control(HARMLESS)


def test_documents_equal_transformers() -> None:
    documents = [{"title": "A <b>", "text": "b | c"}, {"title": "é", "text": ""}]
    ours = ChatRenderer(cached("byte_level"), DOCUMENTS)
    expected = reference_of(build("byte_level"), DOCUMENTS).apply_chat_template(
        talk("a"), documents=documents, style="s", return_dict=False
    )
    assert ours.render(talk("a"), documents=documents, template_kwargs={"style": "s"}) == expected


def test_all_noncharacters_at_once_are_refused() -> None:
    text = "".join(map(chr, range(0xFDD0, 0xFDF0)))
    assert renderer("byte_level", "plain").render_text(talk(text)).count(text) == 1
    text += "".join(chr(p << 16 | low) for p in range(1, 17) for low in (0xFFFE, 0xFFFF))
    with pytest.raises(InvalidRequest, match="noncharacter"):
        renderer("byte_level", "plain").render(talk(text))
