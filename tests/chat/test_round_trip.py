"""What a template writes is read back, or the reason why not is told."""

from __future__ import annotations

import pytest

from llmplug import ReasoningParserSpec, ToolParserSpec
from llmplug.chat.render import ChatRenderer
from llmplug.chat.round_trip import NotShown, find_call_problem, find_thinking_problem
from llmplug.chat.tokenizer import Tokenizer
from llmplug.dialect import (
    AnswerContext,
    Content,
    Event,
    JsonCalls,
    NamedCalls,
    ReasoningSyntax,
    in_template,
)
from llmplug.errors import TemplateError

from .vocabularies import byte_level, cached, files_of

# Turns as families write them; CALL and THOUGHT are what they write of an answer.
FRAME = """\
{%- if tools %}{{ '<|im_start|>system\\n' ~ (tools | tojson) ~ '<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}
    {{- '<|im_start|>' ~ m.role ~ '\\n' }}
    {%- if m.role == 'assistant' %}THOUGHT{% endif %}
    {{- m.content or '' }}
    {%- for call in m.tool_calls or [] %}{% set f = call.function %}CALL{% endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\nHEAD' }}{% endif %}"""
CALL = "{{ '<tool>' ~ {'name': f.name, 'arguments': f.arguments} | tojson ~ '</tool>' }}"
THOUGHT = "{{ '<think>' ~ (m.reasoning_content or '') ~ '</think>' }}"

HERE = in_template("<tool>")
CALLS = ToolParserSpec(name="a", detect=HERE, syntax=(JsonCalls(start=("<tool>",), end="</tool>"),))
THINKING = ReasoningParserSpec(
    name="a", detect=HERE, syntax=ReasoningSyntax(start=("<think>",), end="</think>")
)


def make_renderer(call: str = CALL, thought: str = "", head: str = "") -> ChatRenderer:
    source = FRAME.replace("CALL", call).replace("THOUGHT", thought).replace("HEAD", head)
    return ChatRenderer(cached("byte_level"), source)


def test_what_is_written_in_the_dialect_comes_back() -> None:
    assert find_call_problem(make_renderer(), None, CALLS) is None
    assert find_thinking_problem(make_renderer(thought=THOUGHT), THINKING) is None


def test_the_template_may_close_what_is_not_opened() -> None:
    thought = "{{ '<think>' ~ m.reasoning_content if m.reasoning_content }}{{ '</think>' }}"
    renderer = make_renderer(thought=thought, head="<think>")
    assert find_call_problem(renderer, THINKING, CALLS) is None
    assert find_thinking_problem(renderer, THINKING) is None


@pytest.mark.parametrize("head", ["<think>", "<think></think>", ""])
def test_thinking_may_stand_round_a_call_and_in_the_head(head: str) -> None:
    renderer = make_renderer(thought=THOUGHT, head=head)
    assert find_call_problem(renderer, THINKING, CALLS) is None
    assert find_thinking_problem(renderer, THINKING) is None


def test_arguments_as_text_and_templates_without_a_place_for_tools() -> None:
    call = """{{ '<tool>{"name": "' ~ f.name ~ '", "arguments": ' ~ f.arguments ~ '}</tool>' }}"""
    turns = FRAME[FRAME.index("{%- for") :].replace("CALL", call)
    source = turns.replace("THOUGHT", "").replace("HEAD", "")
    renderer = ChatRenderer(cached("byte_level"), source)
    assert not renderer.shape.takes_tools
    assert not renderer.shape.takes_argument_maps
    assert find_call_problem(renderer, None, CALLS) is None


def test_a_template_for_tools_shows_the_calls() -> None:
    plain = FRAME.replace("CALL", "").replace("THOUGHT", "").replace("HEAD", "")
    tool_source = FRAME.replace("CALL", CALL).replace("THOUGHT", "").replace("HEAD", "")
    renderer = ChatRenderer(cached("byte_level"), plain, tool_source)
    assert not renderer.shape.takes_tool_calls
    assert find_call_problem(renderer, None, CALLS) is None


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (CALL.replace("<tool>", "<call>"), "read were no calls"),
        (CALL.replace("f.name", "f.name ~ '2'"), "read were ['get_weather2']"),
        (CALL.replace("f.arguments", "dict(f.arguments, days=4)"), "arguments came back as"),
        (CALL.replace("f.arguments", "f.arguments | tojson"), "arguments"),
        (CALL + "{{ 'bye' }}", "text was left beside the call: 'bye'"),
        (CALL + CALL, "read were ['get_weather', 'get_weather']"),
    ],
)
def test_calls_that_come_back_otherwise_are_told(call: str, reason: str) -> None:
    problem = find_call_problem(make_renderer(call), None, CALLS)
    assert problem is not None
    assert reason in problem


@pytest.mark.parametrize(
    ("thought", "reason"),
    [
        (THOUGHT.replace("think>", "left>"), "was read the thought ''"),
        (THOUGHT.replace("</think>", ""), "was read the thought"),
        (THOUGHT + "{{ 'well' }}", "was read the answer 'wellIt is sunny.'"),
    ],
)
def test_thoughts_that_come_back_otherwise_are_told(thought: str, reason: str) -> None:
    problem = find_thinking_problem(make_renderer(thought=thought), THINKING)
    assert problem is not None
    assert reason in problem


def test_two_calls_are_tried_where_a_template_shows_two() -> None:
    listed = "{{ 'x' if not loop.first }}" + CALL  # stands between the two
    problem = find_call_problem(make_renderer(listed), None, CALLS)
    assert problem == "text was left beside the call: 'x'"
    once = "{% if loop.first %}" + CALL + "{% endif %}"
    assert find_call_problem(make_renderer(once), None, CALLS) is None
    refusing = "{{ raise_exception('one at a time') if loop.length > 1 }}" + CALL
    assert find_call_problem(make_renderer(refusing), None, CALLS) is None
    swapped = CALL.replace("f.arguments", "m.tool_calls[-1].function.arguments")
    problem = find_call_problem(make_renderer(swapped), None, CALLS)
    assert problem is not None
    assert problem.startswith("arguments came back as")


def test_thoughts_that_are_shown_beside_calls_only() -> None:
    renderer = make_renderer(thought="{% if m.tool_calls %}" + THOUGHT + "{% endif %}")
    assert find_thinking_problem(renderer, THINKING) is None
    wrong = make_renderer(thought="{% if m.tool_calls %}{{ m.reasoning_content }}{% endif %}")
    assert find_thinking_problem(wrong, THINKING) is not None


def test_what_is_not_shown_cannot_be_tried() -> None:
    with pytest.raises(NotShown, match="no place for calls"):
        find_call_problem(make_renderer(call=""), None, CALLS)
    with pytest.raises(NotShown, match="does not show thoughts"):
        find_thinking_problem(make_renderer(), THINKING)


def test_a_template_that_refuses_the_test() -> None:
    renderer = make_renderer(CALL + "{{ raise_exception('no <b>') if '<b>' in f.arguments.city }}")
    with pytest.raises(TemplateError, match="no <b>"):
        find_call_problem(renderer, None, CALLS)


def test_markers_that_share_their_beginning_with_the_head() -> None:
    """The head goes on with `<|`, and so does the call's marker: it is not cut in two."""
    library = byte_level()
    library.add_special_tokens(["<|call|>", "<|name|>", "<|done|>", "<|final|>"])
    call = "{{ '<|call|>' ~ f.name ~ '<|name|>' ~ f.arguments | tojson ~ '<|done|>' }}"
    source = FRAME.replace("CALL", call).replace("THOUGHT", "").replace("HEAD", "<|final|>")
    renderer = ChatRenderer(Tokenizer(files_of(library)), source)
    syntax = NamedCalls(start="<|call|>", after_name="<|name|>", end="<|done|>")
    spec = ToolParserSpec(name="b", detect=HERE, syntax=(syntax,))
    assert find_call_problem(renderer, None, spec) is None


def test_special_tokens_that_no_marker_names_are_hidden_as_in_an_answer() -> None:
    library = byte_level()
    library.add_special_tokens(["<|gap|>"])
    source = FRAME.replace("CALL", CALL + "{{ '<|gap|>' }}").replace("THOUGHT", "")
    renderer = ChatRenderer(Tokenizer(files_of(library)), source.replace("HEAD", ""))
    assert find_call_problem(renderer, None, CALLS) is None
    seen: list[str] = []

    class Listener:
        """A parser made by hand: it is shown every special token."""

        def feed(self, text: str) -> list[Event]:
            seen.append(text)
            return [Content(text)]

        def finish(self) -> list[Event]:
            return []

    def make(context: AnswerContext) -> Listener:
        assert [tool.name for tool in context.tools] == ["get_weather"]
        return Listener()

    problem = find_call_problem(renderer, None, ToolParserSpec(name="b", detect=HERE, make=make))
    assert problem is not None
    assert "".join(seen).endswith("</tool><|gap|>")
