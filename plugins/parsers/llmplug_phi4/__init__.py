"""Phi-4-mini: a JSON list behind the word `functools`, or between tokens.

FireFunction v2 writes the word too.
"""

from __future__ import annotations

from llmplug import ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, in_template

# https://huggingface.co/microsoft/Phi-4-mini-instruct: the card's template for tools, and the
# tokens that its tokenizer keeps for calls.
_NAMED = JsonCalls(start=("functools",), holds="list")
_TOKENS = JsonCalls(start=("<|tool_call|>",), end="<|/tool_call|>", holds="list")


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `phi4`."""
    return [
        ToolParserSpec(
            name="phi4", detect=in_template("functools[", score=0.9), syntax=(_NAMED, _TOKENS)
        ),
        ToolParserSpec(
            name="phi4_tokens",
            detect=in_template("<|tool|>", "<|/tool|>", score=0.9),
            syntax=(_TOKENS, _NAMED),
        ),
    ]
