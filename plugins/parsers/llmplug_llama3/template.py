"""A chat template for checkpoints of Llama 3 that carry none."""

from __future__ import annotations

from llmplug import ChatTemplateSpec

_START, _END, _STOP = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"

# https://github.com/meta-llama/llama-models/blob/main/models/llama3_1/prompt_format.md: turns, the
# role `ipython` of results, and JSON calls.
_SOURCE = """\
{%- macro head(role) -%}
    {{- '<|start_header_id|>' ~ role ~ '<|end_header_id|>\\n\\n' -}}
{%- endmacro -%}
{%- macro about_tools() -%}
    {{- 'Environment: ipython\\n\\nYou can call the functions below. To call one, answer with a '
        ~ 'JSON object alone, in this form: {"name": its name, "parameters": an object that holds '
        ~ 'the arguments}. Write values, not variables.\\n\\n' -}}
    {%- for tool in tools -%}
        {{- (tool | tojson) ~ '\\n' -}}
    {%- endfor -%}
{%- endmacro -%}
{{- bos_token -}}
{%- if tools and messages and messages[0].role != 'system' -%}
    {{- head('system') ~ about_tools() ~ '<|eot_id|>' -}}
{%- endif -%}
{%- for message in messages -%}
    {{- head('ipython' if message.role == 'tool' else message.role) -}}
    {%- if tools and loop.first and message.role == 'system' -%}
        {{- about_tools() ~ '\\n' -}}
    {%- endif -%}
    {%- if message.content -%}
        {{- message.content | trim -}}
    {%- endif -%}
    {%- for call in message.tool_calls or [] -%}
        {{- '; ' if not loop.first else '' -}}
        {{- '{"name": ' ~ (call.function.name | tojson) ~ ', "parameters": ' -}}
        {{- (call.function.arguments | tojson) ~ '}' -}}
    {%- endfor -%}
    {{- '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- head('assistant') -}}
{%- endif -%}
"""


def _fits(vocabulary: frozenset[str]) -> bool:
    return {_START, _END, _STOP} <= vocabulary


TEMPLATE = ChatTemplateSpec(name="llama3", source=_SOURCE, fits=_fits, stop_tokens=(_STOP,))
