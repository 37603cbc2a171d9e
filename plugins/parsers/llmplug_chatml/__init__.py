"""ChatML: turns between `<|im_start|>` and `<|im_end|>`."""

from __future__ import annotations

from llmplug import ChatTemplateSpec, hookimpl

_START, _END = "<|im_start|>", "<|im_end|>"

# https://github.com/openai/openai-python/blob/v0.28.1/chatml.md
_SOURCE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ (message.content or '') ~ '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def _fits(vocabulary: frozenset[str]) -> bool:
    return {_START, _END} <= vocabulary


@hookimpl
def llmplug_chat_templates() -> list[ChatTemplateSpec]:
    """Offer the template `chatml`."""
    return [ChatTemplateSpec(name="chatml", source=_SOURCE, fits=_fits, stop_tokens=(_END,))]
