"""Which dialect is found by what a family's template says of calls and thinking.

The texts are the telling words of published templates; whole templates are in
`tests/chat/test_real_templates.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from llmplug import ReasoningParserSpec, ToolParserSpec
from tests.plugins.dialects.bundled import REASONING, TOOLS

# (telling words of a template, its calls, its thinking)
TEMPLATES: list[tuple[str, str, str | None]] = [
    ('<|im_start|> <tool_call>\n{"name": , "arguments": }\n</tool_call>', "hermes", None),
    ('<|im_start|> <tool_call>"arguments" <think>\n</think>', "hermes", "hermes"),
    ("<|im_start|> <tool_call>\n<function= <parameter= arguments", "qwen3_coder", None),
    (
        "<|im_start|> <tool_call>\n<function= <parameter= <think>\n\n</think>",
        "qwen3_coder",
        "qwen3_coder",
    ),
    ('<|start_header_id|> <|python_tag|> {"name": "x", "parameters": ', "llama3", None),
    ('<|header_start|> <|python_start|> {"name": "x", "parameters": ', "llama4", None),
    ("<|start_header_id|> [func_name1(a=1, b=2), func_name2(c)]", "pythonic", None),
    ("<|header_start|> [func_name1(a=1, b=2), func_name2(...)]", "pythonic", None),
    ("[AVAILABLE_TOOLS] [INST] [TOOL_CALLS] [", "mistral_v3", None),
    ("[SYSTEM_PROMPT] [INST] [TOOL_CALLS]x[CALL_ID]y[ARGS]", "mistral", None),
    ("[THINK]x[/THINK] [INST] [TOOL_CALLS]x[ARGS]", "mistral", "mistral"),
    ("<|start_of_role|> respond only with <|tool_call|> followed by", "granite3", None),
    (
        "<|start_of_role|> <|tool_call|> between <think></think> and <response></response>",
        "granite3",
        "granite33",
    ),
    (
        "<|start_of_role|> <|tool_call|> 'Here is my thought process:' and 'Here is my response:'",
        "granite3",
        "granite32",
    ),
    ('<|start_of_role|> <tool_call>\n{"arguments": }\n</tool_call>', "granite4", None),
    ("<|function_call_library|> <function_call> {", "granite_20b_fc", None),
    ('<|system|> formatted as functools[{"name": , "arguments": }, ...]', "phi4", None),
    ("<|system|> <|tool|>x<|/tool|><|end|>", "phi4_tokens", None),
    ('make calls in a single JSON array: [{"name": "tool_call_name", "arguments": ', "xlam", None),
    ("<|bom|> <tool_calls>[ </tool_calls>", "jamba", None),
    ("<|startoftext|> <|extra_0|> <tool_calls>[ <think>\n\n</think>", "hunyuan", "hunyuan"),
    (
        "<｜hy_Assistant｜> <think></think> <tool_calls> <tool_call>x<tool_sep> <arg_key>",
        "hunyuan3",
        "hunyuan3",
    ),
    (
        "':opensource' '<think{}>' '<tool_sep{}>' '<arg_key{}>'.format(suffix)",
        "hunyuan3_open",
        "hunyuan3_open",
    ),
    ("<think></think> <tool_calls> <tool_call>x<arg_key>", "hunyuan4", "hunyuan3"),
    (
        "':opensource' '<think{}>' '<tool_call{}>' '<arg_key{}>'.format(suffix)",
        "hunyuan4_open",
        "hunyuan3_open",
    ),
    ("<|begin_assistant|> <tool_calls>[ ]</tool_calls>", "apriel", None),
    ("<|start_header_id|> <function=x>{}</function>", "functionary", None),
    (
        "Reasoning Mode: /no_think <tool_call>\n{arguments}\n</tool_call> <think>\n</think>",
        "smollm3",
        "smollm3",
    ),
    ("<|im_start|> <|action_start|><|plugin|>", "internlm", None),
    ("<function_calls>\nf(a='b')\n</function_calls> <functions>", "olmo3", None),
    ("List of tools: <|im_start|> <|tool_call_start|>[", "lfm2", None),
    ("List of tools: <|im_start|> <think> </think>", "lfm2", "lfm2"),
    (
        "<|tools_prefix|> <|tools_suffix|> <|inner_prefix|> <|inner_suffix|>",
        "apertus",
        "apertus",
    ),
    ("Write 'Action:' followed by ```json\n[{\"tool_name\": ", "command_r", None),
    (
        '<|START_THINKING|> <|END_THINKING|> <|START_ACTION|>[{"tool_name": ',
        "command_a",
        "command_a",
    ),
    (
        "<｜Assistant｜><｜tool▁calls▁begin｜> '<｜tool▁sep｜>' '```json' '</think>'",
        "deepseek_v3",
        "deepseek",
    ),
    ("<｜tool▁calls▁begin｜> <｜tool▁sep｜> <think> </think>", "deepseek_v31", "deepseek"),
    (
        "set dsml_token = '｜DSML｜' <{{ dsml_token }}function_calls> </think>",
        "deepseek_v32",
        "deepseek",
    ),
    ('<｜DSML｜tool_calls> <｜DSML｜invoke name="$TOOL_NAME">', "deepseek_v4", None),
    ('<｜DSML｜ calls> <｜DSML｜ invoke name="$TOOL_NAME"> </think>', "deepseek_v41", "deepseek"),
    ("<think> </think> <response> </response> <tool_call> 'arguments'", "ernie45", "ernie45"),
    ("<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key> <think></think>", "glm", "glm"),
    ("<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key>", "glm", None),
    ("<|im_middle|> <|tool_calls_section_begin|> <think></think>", "kimi_k2", "kimi_k2"),
    ("'<|open|>' ~ tag ~ '<|sep|>' '<|close|>' open('tools')", "kimi_k3", "kimi_k3"),
    (
        ']~b]ai <minimax:tool_call>\n<invoke name="tool-name-1"> <think> </think>',
        "minimax_m2",
        "minimax_m2",
    ),
    (
        "]~b]ai mark = ']<]minimax[>[' '<tool_call>' '<invoke name=' '<mm:think>' '</mm:think>'",
        "minimax_m3",
        "minimax_m3",
    ),
    ("<seed:tool_call>\n<function=x> <parameter=y> <seed:think>", "seed_oss", "seed_oss"),
    (
        '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="x"> <think> </think>',
        "step3",
        "step3",
    ),
    (
        '<SPECIAL_11> <TOOLCALL>[{{"name": "tool_name1", "arguments": }}] <think></think>',
        "nemotron",
        "nemotron",
    ),
    ('<longcat_tool_call>\n{"name": , "arguments": }', "longcat", None),
    ("<longcat_tool_call>{function-name}\n<longcat_arg_key>", "longcat_lite", None),
    ("<longcat_assistant><longcat_think> <longcat_tool_call>", "longcat", "longcat"),
    ("<|role_sep|> <｜GCML｜tool_calls> <think> </think>", "gigachat35", "gigachat35"),
    ("<|start|> <|channel|>analysis<|message|> <|call|> <|return|>", "harmony", "harmony"),
    (
        "<|turn>model <|tool_call>call: <tool_call|> <|channel>thought <channel|>",
        "gemma4",
        "gemma4",
    ),
    ("<start_of_turn> <start_function_call>call: <escape>", "functiongemma", None),
    ("assistant to=self<|message|> <|eom|> <atem:function_calls>", "muse_glimmer", "muse_glimmer"),
    ('<function name="function-name"><param name="param-name"> </think>', "minicpm5", "minicpm5"),
    ("<|im_start|> {{ message.content }}<|im_end|>", "generic", None),
]


@pytest.mark.parametrize(("template", "calls", "thinking"), TEMPLATES)
def test_detect(template: str, calls: str, thinking: str | None) -> None:
    assert best(TOOLS, template) == [calls]
    assert best(REASONING, template) == ([] if thinking is None else [thinking])


def best(
    specs: Sequence[ToolParserSpec] | Sequence[ReasoningParserSpec], template: str
) -> list[str]:
    """Names of those that fit best."""
    scores = {spec.name: spec.detect(template, {}, frozenset()).score for spec in specs}
    most = max(scores.values())
    return [name for name, score in scores.items() if score == most > 0]


def test_names_are_unique() -> None:
    for specs in (TOOLS, REASONING):
        names = [spec.name for spec in specs]
        assert len(names) == len(set(names))


def test_nothing_fits_a_model_without_template_and_tokens() -> None:
    assert best(TOOLS, "") == ["generic"]
    assert best(REASONING, "") == []
