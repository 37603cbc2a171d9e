"""Llama 3 and 4: calls without marker, as JSON or, by the cards of 3.2 and 4, as Python.

ToolACE and others that were made from Llama write Python in the same way; Functionary 3.1 writes
JSON in tags.
"""

from __future__ import annotations

from llmplug import ChatTemplateSpec, ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, NamedCalls, PythonCalls, in_template
from llmplug_llama3.template import TEMPLATE

# https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct, chat template
_JSON = JsonCalls(
    start=(), holds="objects", arguments_key=("parameters", "arguments"), is_bare=True
)
_TAGGED_JSON = JsonCalls(
    start=("<|python_tag|>",), holds="objects", arguments_key=("parameters", "arguments")
)
# https://github.com/meta-llama/llama-models/blob/main/models/llama3_2/text_prompt_format.md
# https://github.com/meta-llama/llama-models/blob/main/models/llama4/prompt_format.md
_PYTHON = PythonCalls(start=(), is_bare=True)
# https://huggingface.co/meetkai/functionary-small-v3.1, chat template
_TAGS = NamedCalls(start="<function=", after_name=">", end="</function>")


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `llama3`, `llama4`, `pythonic` and `functionary`."""
    return [
        ToolParserSpec(
            name="llama3",
            detect=in_template("<|start_header_id|>", '{"name": ', '"parameters": ', score=0.9),
            syntax=(_JSON, _TAGGED_JSON, _PYTHON),
        ),
        ToolParserSpec(
            name="llama4",
            detect=in_template("<|header_start|>", '{"name": ', '"parameters": ', score=0.9),
            syntax=(_JSON, _PYTHON),
        ),
        ToolParserSpec(
            name="pythonic",
            detect=in_template("[func_name1(", "func_name2(", score=0.9),
            syntax=(_PYTHON, _JSON),
        ),
        ToolParserSpec(
            name="functionary",
            detect=in_template(
                "<|start_header_id|>",
                "<function=",
                "</function>",
                unless=("<parameter=",),
                score=0.9,
            ),
            syntax=(_TAGS,),
        ),
    ]


@hookimpl
def llmplug_chat_templates() -> list[ChatTemplateSpec]:
    """Offer the template `llama3`."""
    return [TEMPLATE]
