"""Tables of calls in every form, of no family in particular."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec
from llmplug.dialect import (
    NO_MATCH,
    CallSyntax,
    JsonCalls,
    NamedCalls,
    ReasoningSyntax,
)

TAGGED_OBJECT = JsonCalls(start=("<one_call>\n",), end="\n</one_call>")
OPEN_OBJECT = JsonCalls(start=("<one_call>",))
LIST = JsonCalls(start=("[ALL_CALLS]",), holds="list")
CLOSED_LIST = JsonCalls(
    start=("<all_calls>", "<|all_calls|>"),
    end="</all_calls>",
    holds="list",
    arguments_key=("parameters", "arguments"),
)
OBJECTS = JsonCalls(start=("<|call_tag|>",), end="<|end|>", holds="objects")
BARE = JsonCalls(start=(), is_bare=True, holds="objects", arguments_key=("parameters", "arguments"))
BARE_LIST = JsonCalls(start=(), is_bare=True, holds="list")
BY_NAME = JsonCalls(start=("<|prefix|>",), end="<|suffix|>", holds="list", name_key="")
NAMED = NamedCalls(start="[ONE_CALL]", after_name="[ARGS]")
CLOSED_NAMED = NamedCalls(start="<function=", after_name=">", end="</function>")
FENCED = NamedCalls(
    section=("<section>", "</section>"),
    start="<one_call>function<sep>",
    after_name="\n```json\n",
    end="\n```</one_call>",
)
WITH_ID = NamedCalls(
    section=("<section>", "</section>"),
    start="<one_call>",
    after_name="<args>",
    end="</one_call>",
    name_pattern=r"(?P<id>functions\.(?P<name>.+):\d+)",
    name_format="functions.{name}:{index}",
)

TABLES: dict[str, tuple[CallSyntax, ...]] = {
    "an object between tags": (TAGGED_OBJECT,),
    "an object behind a tag": (OPEN_OBJECT,),
    "a list": (LIST,),
    "a list between tags": (CLOSED_LIST,),
    "objects, bare too": (OBJECTS, BARE),
    "a bare list first": (BARE_LIST, LIST),
    "the name as key": (BY_NAME,),
    "a name before": (NAMED,),
    "a name in a tag": (CLOSED_NAMED,),
    "fences in a section": (FENCED,),
    "ids in a section": (WITH_ID,),
}


def make_tools(*tables: CallSyntax) -> ToolParserSpec:
    """Make a dialect of tables."""
    return ToolParserSpec(name="made", detect=lambda *_: NO_MATCH, syntax=tables)


THINKING = ReasoningParserSpec(
    name="made",
    detect=lambda *_: NO_MATCH,
    syntax=ReasoningSyntax(start=("<think>",), end="</think>", ended_by=("<one_call>",)),
)
