"""Step 3's dialect, and that of Step 3.5, which is Qwen3-Coder's."""

from __future__ import annotations

import pytest

import llmplug_step
from tests.plugins.dialects.bundled import choose_for, names_of
from tests.plugins.dialects.reading import Answer, Call, PluginDialect

STEP = PluginDialect(llmplug_step, "step3", "step3")
PROMPT_END = "<|BOT|>assistant\n<think>\n"

LINES = """\
<｜tool_calls_begin｜>
<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="get_weather">
<steptml:parameter name="city">12 < 13</steptml:parameter>
<steptml:parameter name="is_metric">true</steptml:parameter>
<steptml:parameter name="place">{"lat": 48.9}</steptml:parameter>
</steptml:invoke><｜tool_call_end｜>
<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="get_time">
</steptml:invoke><｜tool_call_end｜>
<｜tool_calls_end｜>"""
DENSE = LINES.replace("\n", "")
LOOSE = LINES.replace("｜><steptml", "｜>\n<steptml").replace("invoke><｜", "invoke>\n<｜")
READ = [
    Call("get_weather", {"city": "12 < 13", "is_metric": True, "place": {"lat": 48.9}}),
    Call("get_time", {}),
]


@pytest.mark.parametrize("calls", [LINES, DENSE, LOOSE])
def test_calls(calls: str) -> None:
    text = f"They ask.\n</think>\n\nI look.\n{calls}"
    assert STEP.read(text, PROMPT_END) == Answer("I look.", "They ask.", READ)
    assert STEP.read(f"They ask.\n{calls}", PROMPT_END) == Answer("", "They ask.", READ)


def test_calls_without_tokens_round_them() -> None:
    bare = LINES.replace("<｜tool_call_begin｜>function<｜tool_sep｜>", "")
    assert STEP.read(bare.replace("<｜tool_call_end｜>", "")) == Answer(calls=READ)


def test_call_that_breaks_off() -> None:
    (call,) = STEP.read(DENSE[: DENSE.index("12") + 1]).calls
    assert call == Call("get_weather", '{"city": "1', is_complete=False)
    whole = DENSE[: DENSE.index("<｜tool_call_end｜>") + len("<｜tool_call_end｜>")]
    assert STEP.read(whole) == Answer(calls=READ[:1])


def test_end_of_no_call_is_text() -> None:
    text = "<｜tool_calls_begin｜><｜tool_call_end｜><｜tool_calls_end｜>"
    assert STEP.read(text) == Answer(text)


@pytest.mark.parametrize("calls", [LINES, DENSE])
def test_forced_calls(calls: str) -> None:
    assert STEP.allows(calls)
    assert not STEP.allows(calls, most=1)
    assert not STEP.allows(calls.replace('"city">12', '"town">12'))
    assert not STEP.allows(calls.replace(">true<", ">maybe<"))


# What a conversation looks like to the model, in as few words as will do.
TEMPLATE = """\
{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for m in messages %}{{ '<|BOT|>' ~ m.role ~ '\n' }}
    {%- if m.reasoning_content %}{{ '<think>\n' ~ m.reasoning_content ~ '\n</think>\n' }}{% endif %}
    {{- m.content or '' }}
    {%- if m.tool_calls %}{{ '<｜tool_calls_begin｜>\n' }}
        {%- for call in m.tool_calls %}
            {{- '<｜tool_call_begin｜>function<｜tool_sep｜>' }}
            {{- '<steptml:invoke name="' ~ call.function.name ~ '">\n' }}
            {%- for key, value in call.function.arguments | items %}
                {{- '<steptml:parameter name="' ~ key ~ '">' }}
                {{- (value if value is string else value | tojson) ~ '</steptml:parameter>\n' }}
            {%- endfor %}{{ '</steptml:invoke><｜tool_call_end｜>\n' }}
        {%- endfor %}{{ '<｜tool_calls_end｜>' }}
    {%- endif %}{{ '<|EOT|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|BOT|>assistant\n<think>\n' }}{% endif %}"""
AS_QWEN3_CODER = """\
{%- for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' }}
    {%- if m.reasoning_content %}{{ '<think>\n' ~ m.reasoning_content ~ '\n</think>\n' }}{% endif %}
    {{- m.content or '' }}
    {%- for call in m.tool_calls or [] %}
        {{- '<tool_call>\n<function=' ~ call.function.name ~ '>\n' }}
        {%- for key, value in call.function.arguments | items %}
            {{- '<parameter=' ~ key ~ '>\n' }}
            {{- (value if value is string else value | tojson) ~ '\n</parameter>\n' }}
        {%- endfor %}{{ '</function>\n</tool_call>' }}
    {%- endfor %}{{ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"""


@pytest.mark.parametrize(
    ("template", "name"), [(TEMPLATE, "step3"), (AS_QWEN3_CODER, "qwen3_coder")]
)
def test_what_a_template_writes_is_read_back(template: str, name: str) -> None:
    dialect = choose_for(template, r"<｜\w+｜>|<\|\w+\|>")
    assert names_of(dialect) == (name, name)
    assert dialect.problems == ()


def test_properties_of_every_dialect() -> None:
    STEP.check()
