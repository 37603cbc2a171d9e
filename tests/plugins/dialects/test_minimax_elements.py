"""MiniMax M3's dialect, as its template writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import llmplug_minimax
from llmplug.chat.call_grammar import build_call_grammar
from llmplug.dialect import Tool
from llmplug.errors import GrammarError
from llmplug.testing.call_writing import Call as WrittenCall
from llmplug.testing.reading_speed import check_speed
from tests.plugins.dialects.bundled import choose_for, names_of
from tests.plugins.dialects.reading import Answer, Call, PluginDialect, accepts

MINIMAX = PluginDialect(llmplug_minimax, "minimax_m3", "minimax_m3")
PROMPT_END = "]~b]ai\n<mm:think>"
MARK = "]<]minimax[>["


def marked(text: str) -> str:
    """Put the mark before every tag; what is written `&lt;` is no tag."""
    return text.replace("<", f"{MARK}<").replace("&lt;", "<")


CALLS = marked(
    '<tool_call>\n<invoke name="get_weather"><city> &lt;b>Par\nis &lt;/city></city><days>2</days>'
    "<is_metric>true</is_metric><tags><item>a</item><item>2</item></tags>"
    '<place><lat>48.9</lat></place></invoke>\n<invoke name="get_time"></invoke>\n</tool_call>'
)
LINES = CALLS.replace(f"{MARK}<", f"\n{MARK}<").replace(f"\n{MARK}</", f"{MARK}</")
READ = [
    Call(
        "get_weather",
        {
            "city": " <b>Par\nis </city>",
            "days": 2,
            "is_metric": True,
            "tags": ["a", "2"],
            "place": {"lat": 48.9},
        },
    ),
    Call("get_time", {}),
]


@pytest.mark.parametrize("calls", [CALLS, LINES])
def test_calls(calls: str) -> None:
    text = f"They ask.\n</mm:think>\n\nI look.\n{calls}"
    assert MINIMAX.read(text, PROMPT_END) == Answer("I look.", "They ask.", READ)
    assert MINIMAX.read(f"<mm:think>{text}", "]~b]ai\n") == Answer("I look.", "They ask.", READ)
    assert MINIMAX.read(f"They ask.{calls}", PROMPT_END) == Answer("", "They ask.", READ)


TOOL = Tool(
    "f",
    {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "list": {"type": "array", "items": {"$ref": "#/$defs/place"}},
            "words": {"type": "array", "items": {"type": "string"}},
            "place": {"$ref": "#/$defs/place"},
            "either": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/place"}]},
            "word": {"type": ["string", "null"]},
        },
        "$defs": {
            "place": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "at": {"type": "array", "items": {"type": "number"}},
                    "in": {"$ref": "#/$defs/place"},
                },
                "required": ["name"],
            }
        },
    },
)


@pytest.mark.parametrize(
    ("elements", "arguments"),
    [
        ("<text></text>", {"text": ""}),
        ("<text>1</text>", {"text": "1"}),
        ("<text><place>x</place></text>", {"text": marked("<place>x</place>")}),
        ("<text> </text>", {"text": " "}),
        ("<place><name>1</name></place>", {"place": {"name": "1"}}),
        ('<place>{"name": "x"}</place>', {"place": {"name": "x"}}),
        ("<place></place>", {"place": {}}),
        (
            "<place>\n<name>x</name>\n<at>1</at>\n<at>2</at>\n</place>",
            {"place": {"name": "x", "at": [1, 2]}},
        ),
        ("<place><at><item>1</item></at></place>", {"place": {"at": [1]}}),
        (
            "<place><in><in><name>007</name></in></in></place>",
            {"place": {"in": {"in": {"name": "007"}}}},
        ),
        ("<place>so <name>x</name></place>", {"place": marked("so <name>x</name>")}),
        (
            "<list><item><name>1</name></item><item><name>b</name></item></list>",
            {"list": [{"name": "1"}, {"name": "b"}]},
        ),
        ("<words></words>", {"words": []}),
        ("<words>1</words>", {"words": ["1"]}),
        ('<words>["1", "b"]</words>', {"words": ["1", "b"]}),
        ("<words>a</words><words>b</words><text>c</text>", {"words": ["a", "b"], "text": "c"}),
        ("<words></words><words>b</words>", {"words": ["b"]}),
        ("<words>a</words><words>b <x>c</x></words>", {"words": ["a", marked("b <x>c</x>")]}),
        ("<either>1</either>", {"either": 1}),
        ("<either><name>1</name></either>", {"either": {"name": "1"}}),
        ("<word>null</word>", {"word": None}),
        ("<word>so</word>", {"word": "so"}),
        ("<other>1</other>", {"other": 1}),
        ("<other>so</other>", {"other": "so"}),
        ("<other><item>1</item><item>x</item></other>", {"other": [1, "x"]}),
        ("<other><a>1</a><b>x</b><a>2</a></other>", {"other": {"a": [1, 2], "b": "x"}}),
    ],
)
def test_elements(elements: str, arguments: dict[str, Any]) -> None:
    text = marked(f'<tool_call><invoke name="f">{elements}</invoke></tool_call>')
    assert MINIMAX.read(text, tools=(TOOL,)) == Answer(calls=[Call("f", arguments)])


def test_deep_elements() -> None:
    deep = marked("<a>" * 40 + "x" + "</a>" * 40)
    text = marked('<tool_call><invoke name="f">') + deep + marked("</invoke></tool_call>")
    (call,) = MINIMAX.read(text, tools=(TOOL,)).calls
    assert call.name == "f"
    assert not call.is_complete, "the tags that were text close elements too early"


@pytest.mark.parametrize(
    ("text", "calls", "content"),
    [
        ("<tool_call>", [], "<tool_call>"),
        ("<tool_call>\n</tool_call>so", [], "<tool_call>\n</tool_call>so"),
        ("<tool_call> so", [], "<tool_call> so"),
        ('<tool_call><invoke name="f', [], '<tool_call><invoke name="f'),
        (
            '<tool_call><invoke name="f">so</invoke></tool_call> then',
            [Call("f", "", is_complete=False)],
            "so</invoke>then",
        ),
        (
            '<tool_call><invoke name="f"><text>a</text><text>b</text></tool_call>',
            [Call("f", '{"text": "a"', is_complete=False)],
            "<text>b</text>",
        ),
        (
            '<tool_call><invoke name="f"><text>ab',
            [Call("f", '{"text": "ab', is_complete=False)],
            "",
        ),
        (
            '<tool_call><invoke name="f"><other>12',
            [Call("f", '{"other": 12', is_complete=False)],
            "",
        ),
        (
            '<tool_call><invoke name="f"><words>a</words>',
            [Call("f", '{"words": ["a"', is_complete=False)],
            "",
        ),
        ('<tool_call><invoke name="f"></invoke>', [Call("f", {})], ""),
    ],
)
def test_what_goes_wrong_is_text(text: str, calls: list[Call], content: str) -> None:
    assert MINIMAX.read(marked(text), tools=(TOOL,)) == Answer(marked(content), "", calls)


def test_tags_without_marks_are_text() -> None:
    text = '<tool_call>\n<invoke name="f"></invoke>\n</tool_call>'
    assert MINIMAX.read(text) == Answer(text)


def test_forced_calls() -> None:
    assert MINIMAX.allows(CALLS)
    assert not MINIMAX.allows(CALLS, most=1)
    assert not MINIMAX.allows(CALLS.replace("get_time", "get_date"))
    assert not MINIMAX.allows(CALLS.replace("<city", "<town"))
    assert not MINIMAX.allows(CALLS.replace(">true", ">maybe"))


@pytest.mark.parametrize(
    ("elements", "is_allowed"),
    [
        ("<place><name>x</name><at><item>1.5</item></at></place>", True),
        ("<place><at><item>1.5</item></at></place>", False),
        ("<place><name>x</name><at><item>one</item></at></place>", False),
        ("<list><item><name>x</name></item></list>", True),
        ("<list>x</list>", False),
        ("<either>1</either>", True),
        ("<either>one</either>", False),
        ('<word>"so"</word>', True),
    ],
)
def test_forced_elements(elements: str, is_allowed: bool) -> None:
    text = marked(f'<tool_call>\n<invoke name="f">{elements}</invoke>\n</tool_call>')
    grammar = build_call_grammar(MINIMAX.tools, (TOOL,), least=1, most=None)
    assert accepts(grammar, text) == is_allowed
    assert not is_allowed or MINIMAX.read(text, tools=(TOOL,)).calls[0].is_complete


@pytest.mark.parametrize(
    "properties", [{"a b": {"type": "string"}}, {"a": {"type": "string", "pattern": "x"}}]
)
def test_what_cannot_be_forced_is_refused(properties: dict[str, Any]) -> None:
    tool = Tool("f", {"type": "object", "properties": properties})
    with pytest.raises(GrammarError, match="a"):
        build_call_grammar(MINIMAX.tools, (tool,), least=1, most=None)


# What a conversation looks like to the model, in as few words as will do.
TEMPLATE = """\
{%- set mark = ']<]minimax[>[' %}
{%- macro elements(value) %}
    {%- if value is mapping %}
        {%- for key, each in value | items %}
            {{- mark ~ '<' ~ key ~ '>' ~ elements(each) ~ mark ~ '</' ~ key ~ '>' }}
        {%- endfor %}
    {%- elif value is string %}{{ value }}
    {%- elif value is iterable %}
        {%- for each in value %}
            {{- mark ~ '<item>' ~ elements(each) ~ mark ~ '</item>' }}
        {%- endfor %}
    {%- else %}{{ value | tojson }}
    {%- endif %}
{%- endmacro %}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for m in messages %}{{ ']~b]' ~ ('ai' if m.role == 'assistant' else m.role) ~ '\n' }}
    {%- if m.reasoning_content %}{{ '<mm:think>' ~ m.reasoning_content ~ '</mm:think>' }}{% endif %}
    {{- m.content or '' }}
    {%- if m.tool_calls %}{{ mark ~ '<tool_call>\n' }}
        {%- for call in m.tool_calls %}
            {{- mark ~ '<invoke name="' ~ call.function.name ~ '">' }}
            {{- elements(call.function.arguments) ~ mark ~ '</invoke>\n' }}
        {%- endfor %}{{ mark ~ '</tool_call>' }}
    {%- endif %}{{ '[e~[\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- ']~b]ai\n' ~ ('<mm:think>' if thinking_mode == 'enabled' else '') }}
{%- endif %}"""


def test_what_a_template_writes_is_read_back() -> None:
    dialect = choose_for(TEMPLATE, r"\]<\]minimax\[>\[|\[e~\[|\]~b\]")
    assert names_of(dialect) == ("minimax_m3", "minimax_m3")
    assert dialect.problems == ()


def write(calls: Sequence[WrittenCall]) -> str:
    """Write calls as the template does."""
    invokes = "\n".join(
        f'{MARK}<invoke name="{call.name}">{_write_value(call.arguments)}{MARK}</invoke>'
        for call in calls
    )
    return f"{MARK}<tool_call>\n{invokes}\n{MARK}</tool_call>"


def _write_value(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else [("item", each) for each in value]
        return "".join(f"{MARK}<{key}>{_write_value(each)}{MARK}</{key}>" for key, each in pairs)
    return str(value).lower()


def test_properties_of_every_dialect() -> None:
    MINIMAX.check(write)


def test_speed() -> None:
    inside = CALLS[: CALLS.index("Par")]
    nested = CALLS[: CALLS.index("48.9")]
    heads = [inside, nested, CALLS[: CALLS.index("true")], f"{inside}{MARK}<"]
    check_speed(MINIMAX.tools, MINIMAX.reasoning, num_chars=100_000, heads=heads)
