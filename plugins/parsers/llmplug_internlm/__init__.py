"""InternLM 2, 2.5 and 3: a JSON object between tokens; of an interpreter's code nothing is read."""

from __future__ import annotations

from llmplug import ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, in_template

# https://github.com/InternLM/InternLM/blob/main/agent/README.md; the template of 2.5's card writes
# `parameters`, others `arguments`.
_CALLS = JsonCalls(
    start=("<|action_start|><|plugin|>\n", "<|action_start|> <|plugin|>"),
    end="<|action_end|>",
    arguments_key=("parameters", "arguments"),
)


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `internlm`."""
    detect = in_template("<|action_start|>", "<|plugin|>", score=0.9)
    return [ToolParserSpec(name="internlm", detect=detect, syntax=(_CALLS,))]
