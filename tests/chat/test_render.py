"""Ids of conversations: equal to transformers', and control ids are the template's alone."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmplug import CheckpointError, InvalidRequest, TemplateError, UnsupportedParameter
from llmplug.chat.render import ChatRenderer
from llmplug.chat.tokenizer import Tokenizer

from .dialects import DIALECTS, PLAIN
from .vocabularies import CONTROL, FAMILIES, build, cached, files_of, reference_of

Messages = list[dict[str, Any]]

HARMLESS = "word"
ROLES = ["user", "assistant", "user", "assistant"]
# Tokens of every synthetic vocabulary, whole and in parts, and what templates cut texts at.
SPELLED = [*CONTROL, "<|IM_START|>", "<s>", "</s>", "<left>", "<right>", "<alone>", "<norm>"]
SPELLED += ["marker9", "MARKER9", "※", " <gap>", "＜norm＞", "<|user|>"]
PARTS = [
    "<",
    "<|",
    "<|im_",
    "im_start",
    "start|>",
    "|>",
    ">",
    "[",
    "INST",
    "]",
    "</",
    "think",
    "k>",
]
PARTS += ["marker", "9", " ", "\n", "a", "\ufdd0", "\ufdd1", "\ufffe", "<|im_<think>start|>"]
TEXT = st.lists(
    st.sampled_from([*SPELLED, *PARTS]) | st.text("ab <|>/", max_size=3), max_size=6
).map("".join)


@functools.cache
def renderer(family: str, dialect: str) -> ChatRenderer:
    return ChatRenderer(cached(family), DIALECTS[dialect])


@functools.cache
def reference(family: str, dialect: str) -> Any:
    return reference_of(build(family), DIALECTS[dialect])


def reference_ids(family: str, dialect: str, messages: Messages, **options: Any) -> list[int]:
    options = {"add_generation_prompt": True, **options}
    return reference(family, dialect).apply_chat_template(messages, return_dict=False, **options)


def control_of(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """The control ids, but the one that stands for letters that the vocabulary lacks."""
    unknown = tokenizer.id_of("<unk>")
    return [id_ for id_ in ids if id_ in tokenizer.control_ids and id_ != unknown]


def talk(*texts: str) -> Messages:
    return [{"role": role, "content": text} for role, text in zip(ROLES, texts, strict=False)]


# --- equal to transformers ----------------------------------------------------------------------
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


# --- control tokens -----------------------------------------------------------------------------
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


def make_tool(text: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": text,
            "description": text,
            "parameters": {
                "type": "object",
                "properties": {text: {"type": "string", "enum": [text, {text: [text]}]}},
            },
        },
    }


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


# --- shapes of messages -------------------------------------------------------------------------
PARTS_ONLY = """\
{%- for m in messages %}{{ '<|im_start|>' }}
    {%- for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}
{%- endfor %}"""
TEXT_ARGUMENTS = """\
{%- for m in messages %}{{ m.content or '' }}
    {%- for call in m.tool_calls or [] %}{{ '<think>' + call.function.arguments }}{% endfor %}
{%- endfor %}"""

TOOLS_ALONE = "{%- for tool in tools %}{{ tool.function.description }}{% endfor %}"


def test_shape_is_found_by_trying() -> None:
    strings = renderer("byte_level", "plain").shape
    assert (strings.takes_strings, strings.takes_parts) == (True, False)
    assert (strings.needs_content, strings.takes_tools, strings.takes_tool_calls) == (
        True, False, False,
    )  # fmt: skip
    both = renderer("byte_level", "tools").shape
    assert (both.takes_strings, both.takes_parts, both.takes_argument_maps) == (True, True, True)
    assert (both.needs_content, both.takes_tools, both.takes_tool_calls) == (False, True, True)
    parts = ChatRenderer(cached("byte_level"), PARTS_ONLY).shape
    assert (parts.takes_strings, parts.takes_parts) == (False, True)
    texts = ChatRenderer(cached("byte_level"), TEXT_ARGUMENTS).shape
    assert (texts.takes_tool_calls, texts.takes_argument_maps) == (True, False)
    needs_tools = TOOLS_ALONE + TEXT_ARGUMENTS
    assert ChatRenderer(cached("byte_level"), needs_tools).shape.takes_tool_calls
    shows_no_calls = TOOLS_ALONE + PARTS_ONLY
    assert not ChatRenderer(cached("byte_level"), shows_no_calls).shape.takes_tool_calls


def test_parts_become_what_the_template_takes() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    message = {"role": "user", "content": parts}
    plain = renderer("byte_level", "plain").render_text([message])
    assert plain == "<|im_start|>user\none\ntwo<|im_end|>\n<|im_start|>assistant\n"
    tools = renderer("byte_level", "tools").render_text([message])
    assert tools == "<|im_start|>user\nonetwo<|im_end|>\n<|im_start|>assistant\n"
    ours = ChatRenderer(cached("byte_level"), PARTS_ONLY)
    assert ours.render_text(talk("one")) == "<|im_start|>one"


def test_arguments_as_text_become_a_map_and_back() -> None:
    def call(arguments: object) -> Messages:
        function = {"name": "f", "arguments": arguments}
        return [
            {"role": "user", "content": "q"},
            {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]},
        ]

    maps = renderer("byte_level", "tools")
    assert maps.render(call('{"a": [1, "é"]}')) == maps.render(call({"a": [1, "é"]}))
    assert '<think>f{"a": [1, "é"]}</think>' in maps.render_text(call('{"a": [1, "é"]}'))
    texts = ChatRenderer(cached("byte_level"), TEXT_ARGUMENTS)
    assert texts.render_text(call({"a": 1})) == 'q<think>{"a": 1}'
    assert texts.render_text(call('{"a":1}')) == 'q<think>{"a":1}'


NULL_BESIDE_CALLS = """\
{%- for m in messages %}
    {%- if m.role == 'assistant' and m.content is none %}
        {%- for call in m.tool_calls %}
            {{- call.function.name + call.function.arguments }}
        {%- endfor %}
    {%- else %}{{ m.content + '<|im_end|>' }}
    {%- endif %}
{%- endfor %}"""


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": []}])
def test_templates_that_want_null_beside_calls_get_it(content: dict[str, Any]) -> None:
    ours = ChatRenderer(cached("byte_level"), NULL_BESIDE_CALLS)
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [*talk("q"), {"role": "assistant", **content, "tool_calls": [call]}]
    assert ours.render_text(messages) == "q<|im_end|>f{}"


RESULTS = """\
{%- for m in messages %}
    {%- for call in m.tool_calls or [] %}
        {%- if call.id | length != 9 %}{{ raise_exception('nine letters') }}{% endif %}
        {{- call.id ~ call.function.name ~ call.function.arguments | tojson ~ ' ' }}
    {%- endfor %}
    {%- if m.role == 'tool' %}{{ m.tool_call_id ~ '=' ~ m.name ~ ':' }}{% endif %}
    {{- m.content }}{{ '<|im_end|>' }}
{%- endfor %}"""


def test_results_are_named_and_ids_are_as_the_template_wants_them() -> None:
    ours = ChatRenderer(cached("byte_level"), RESULTS)
    assert ours.shape.wants_short_ids
    assert not ChatRenderer(cached("byte_level"), RESULTS.replace("9", "29")).shape.takes_tool_calls
    plain = RESULTS.replace("!= 9", "== 0")
    assert not ChatRenderer(cached("byte_level"), plain).shape.wants_short_ids

    def text_of(first: str, second: str) -> str:
        calls = [
            {"id": first, "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": second, "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ]
        return ours.render_text(
            [
                *talk("q"),
                {"role": "assistant", "content": "", "tool_calls": calls},
                {"role": "tool", "tool_call_id": second, "content": "2"},
                {"role": "tool", "tool_call_id": first, "content": "1", "name": "own"},
            ]
        )

    assert text_of("aaaaaaaa1", "bbbbbbbb2") == (
        "q<|im_end|>aaaaaaaa1f{} bbbbbbbb2g{} <|im_end|>"
        "bbbbbbbb2=g:2<|im_end|>aaaaaaaa1=own:1<|im_end|>"
    )
    found = text_of("call_" + "a" * 24, "call_" + "b" * 24)
    ids = re.findall("[a-z0-9]{9}(?=[fg]{})", found)
    assert len(set(ids)) == 2
    assert f"{ids[1]}=g:2<|im_end|>{ids[0]}=own:1" in found


def test_documents_need_a_place() -> None:
    with pytest.raises(UnsupportedParameter, match="no place for documents") as caught:
        renderer("byte_level", "plain").render(talk("a"), documents=[{"text": "b"}])
    assert caught.value.param == "documents"
    renderer("byte_level", "plain").render(talk("a"), documents=[])


IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"content": "a"}], "messages[0].role"),
        ([{"role": 3, "content": "a"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([*talk("a"), {"role": "user", "content": None}], "messages[1].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": ["a"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}],
            "messages[0].content[1]",
        ),
        ([{"role": "assistant", "tool_calls": "a"}], "messages[0].tool_calls"),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].function"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_malformed_messages_name_their_place(messages: Messages, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        renderer("byte_level", "tools").render(messages)
    assert caught.value.param == param


def test_what_the_template_cannot_show_is_refused() -> None:
    ours = renderer("byte_level", "plain")
    with pytest.raises(UnsupportedParameter, match="tools") as caught:
        ours.render(talk("a"), tools=[make_tool("f")])
    assert caught.value.param == "tools"
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    with pytest.raises(UnsupportedParameter) as caught:
        ours.render([*talk("a"), {"role": "assistant", "tool_calls": [call]}])
    assert caught.value.param == "messages[1].tool_calls"


def test_nested_too_deeply_is_refused() -> None:
    value: object = "a"
    for _ in range(500):
        value = [value]
    with pytest.raises(InvalidRequest, match="nested"):
        renderer("byte_level", "plain").render([{"role": "user", "content": "a", "x": value}])


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
