import json
from collections.abc import Sequence

import pytest
from example_parley import llmplug_chat_templates, llmplug_reasoning_parsers, llmplug_tool_parsers
from example_parley.call_grammar import write_calls
from example_parley.call_reader import ParleyReader
from llmplug import GrammarError
from llmplug.dialect import CallArguments, CallEnd, CallStart, Content, Opening, Tool
from llmplug.testing import Call, check_chat_template, check_reasoning_parser, check_tool_parser

(TEMPLATE,) = llmplug_chat_templates()
(CALLS,) = llmplug_tool_parsers()
(ASIDES,) = llmplug_reasoning_parsers()
TOKENS = ["<|says|>", "<|over|>"]


def write(calls: Sequence[Call]) -> str:
    """Calls as a model writes them, from the description of the dialect."""
    texts = []
    for call in calls:
        lines = [f"- {key}: {call.write(value)}\n" for key, value in call.arguments.items()]
        texts.append(f"<function:{call.name}>\n{''.join(lines)}</function>")
    return "\n".join(texts)


def test_calls() -> None:
    check_tool_parser(CALLS, reasoning=ASIDES, write=write, template=TEMPLATE.source, tokens=TOKENS)


def test_thoughts() -> None:
    check_reasoning_parser(ASIDES, template=TEMPLATE.source, tokens=TOKENS)


def test_template() -> None:
    check_chat_template(TEMPLATE, tokens=TOKENS)


def read(text: str) -> tuple[str, str, bool | None]:
    """Read what stands behind the marker: arguments, content, whether the call is complete."""
    reader = ParleyReader(Opening(marker="<function:", space="", first_index=0, tools=[Tool("f")]))
    events, left = reader.feed(text)
    if left is None:
        events += reader.finish()
    arguments = "".join(event.text for event in events if isinstance(event, CallArguments))
    content = "".join(event.text for event in events if isinstance(event, Content))
    ends = [event.is_complete for event in events if isinstance(event, CallEnd)]
    assert len(ends) == sum(isinstance(event, CallStart) for event in events)
    return arguments, content + (left or ""), ends[0] if ends else None


def test_values_stay_as_they_are_written() -> None:
    arguments, content, is_complete = read(
        'f>\n- a:  [1,  2.50]\n-b: "</function>"\n</function> so'
    )
    assert (content, is_complete) == (" so", True)
    assert arguments == '{"a": [1,  2.50], "b": "</function>"}'
    assert json.loads(arguments) == {"a": [1, 2.5], "b": "</function>"}


@pytest.mark.parametrize(
    ("text", "arguments", "content"),
    [
        ("f>\n- a: 1\n- a: 2\n</function>", '{"a": 1', "- a: 2\n</function>"),
        ("f>\n- a: yes\n</function>", '{"a": ', "yes\n</function>"),
        ("f>\n- a\n</function>", "", "- a\n</function>"),
        ("f>\n so", "", "so"),
        ('f>\n- a: "b', '{"a": "b', ""),
    ],
    ids=["twice", "no JSON", "no value", "no line", "cut off"],
)
def test_where_a_call_goes_wrong_it_ends(text: str, arguments: str, content: str) -> None:
    found_arguments, found_content, is_complete = read(text)
    assert is_complete is False
    assert found_arguments == arguments
    assert found_content.split() == content.split()


@pytest.mark.parametrize("text", ["\nf>", ">", "x" * 300 + ">"])
def test_what_has_no_name_is_text(text: str) -> None:
    assert read(text) == ("", f"<function:{text}", None)


@pytest.mark.parametrize("key", ["a:b", "a\nb", " a", ""])
def test_keys_that_no_line_can_hold_are_refused(key: str) -> None:
    tool = Tool("f", {"type": "object", "properties": {key: {}}})
    with pytest.raises(GrammarError, match="cannot begin with"):
        write_calls([tool], 1, 1)
