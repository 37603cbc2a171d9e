"""OLMo 3: Python calls, one a line, between tags; words as JSON spells them."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import PythonCalls, ReasoningSyntax, in_template

# https://huggingface.co/allenai/Olmo-3-7B-Instruct, chat template
_CALLS = PythonCalls(start=("<function_calls>\n",), end="\n</function_calls>", is_list=False)
# https://huggingface.co/allenai/Olmo-3-7B-Think, chat template
_THINKING = ReasoningSyntax(start=("<think>",), end="</think>", ended_by=("<function_calls>",))

_FUNCTIONS = "<functions>"
_OTHERS = ("<invoke", "DSML")  # families that put parameters in tags


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `olmo3`."""
    detect = in_template("<function_calls>", _FUNCTIONS, unless=_OTHERS, score=0.9)
    return [ToolParserSpec(name="olmo3", detect=detect, syntax=(_CALLS,))]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `olmo3`."""
    detect = in_template("<think>", _FUNCTIONS, unless=_OTHERS, score=0.9)
    return [ReasoningParserSpec(name="olmo3", detect=detect, syntax=_THINKING)]
