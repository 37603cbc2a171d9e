"""DeepSeek V3, R1, V3.1, V3.2, V4 and V4.1: calls between tokens of their own.

V3 and R1 put JSON into a code block, V3.1 behind the name; later ones write parameters in tags,
which say of each whether it is a string.
"""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import NamedCalls, ReasoningSyntax, TaggedCalls, in_template

_SECTION = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")

# https://huggingface.co/deepseek-ai/DeepSeek-R1, chat template
_V3 = NamedCalls(
    section=_SECTION,
    start="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    after_name="\n```json\n",
    end="\n```<｜tool▁call▁end｜>",
)
# https://huggingface.co/deepseek-ai/DeepSeek-V3.1, chat template
_V31 = NamedCalls(
    section=_SECTION,
    start="<｜tool▁call▁begin｜>",
    after_name="<｜tool▁sep｜>",
    end="<｜tool▁call▁end｜>",
)


def _in_tags(section: str, space: str = "") -> TaggedCalls:
    return TaggedCalls(
        section=(f"<｜DSML｜{section}>", f"</｜DSML｜{section}>"),
        name=(f'<｜DSML｜{space}invoke name="', '">'),
        key=(
            f'<｜DSML｜{space}parameter name="',
            {'" string="true">': "text", '" string="false">': "json"},
        ),
        value=("", f"</｜DSML｜{space}parameter>"),
        end=f"</｜DSML｜{space}invoke>",
    )


# https://huggingface.co/deepseek-ai/DeepSeek-V3.2, encoding/encoding_dsv32.py
_V32 = _in_tags("function_calls")
# https://huggingface.co/deepseek-ai/DeepSeek-V4-Flash, encoding/README.md
_V4 = _in_tags("tool_calls")
# The same of V4.1, encoding/encoding.py: a space stands before each word.
_V41 = _in_tags(" calls", " ")

_THINKING = ReasoningSyntax(
    start=("<think>",),
    end="</think>",
    ended_by=(
        _SECTION[0],
        "<｜DSML｜function_calls>",
        "<｜DSML｜tool_calls>",
        "<｜DSML｜ calls>",
    ),
)


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `deepseek_v3`, `v31`, `v32`, `v4` and `v41`."""
    block = "```json"
    return [
        ToolParserSpec(
            name="deepseek_v3", detect=in_template(_SECTION[0], block, score=0.9), syntax=(_V3,)
        ),
        ToolParserSpec(
            name="deepseek_v31",
            detect=in_template(_SECTION[0], unless=(block,), score=0.9),
            syntax=(_V31,),
        ),
        ToolParserSpec(
            name="deepseek_v32",
            detect=in_template("｜DSML｜", "function_calls>", score=0.9),
            syntax=(_V32, _V4),
        ),
        ToolParserSpec(
            name="deepseek_v4",
            detect=in_template("｜DSML｜", "tool_calls>", score=0.9),
            syntax=(_V4, _V41, _V32),
        ),
        ToolParserSpec(
            name="deepseek_v41",
            detect=in_template("｜DSML｜", " calls>", score=0.9),
            syntax=(_V41, _V4),
        ),
    ]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `deepseek`."""
    settings = ("thinking", "enable_thinking")
    fits = [
        in_template("</think>", _SECTION[0], score=0.9),
        in_template("</think>", "｜DSML｜", score=0.9),
    ]
    return [
        ReasoningParserSpec(
            name="deepseek",
            detect=lambda *about: max((fit(*about) for fit in fits), key=lambda each: each.score),
            syntax=_THINKING,
            thinking_on=dict.fromkeys(settings, True),
            thinking_off=dict.fromkeys(settings, False),
        )
    ]
