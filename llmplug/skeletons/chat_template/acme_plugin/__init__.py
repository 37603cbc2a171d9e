"""A chat template: turns between `<|turn>` and `<turn|>`, for checkpoints that carry none."""

from __future__ import annotations

from llmplug import ChatTemplateSpec, hookimpl

_START, _END = "<|turn>", "<turn|>"

_SOURCE = """\
{%- for message in messages -%}
    {{- '<|turn>' ~ message.role ~ '\\n' ~ (message.content or '') ~ '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|turn>assistant\\n' -}}
{%- endif -%}
"""


def _fits(vocabulary: frozenset[str]) -> bool:
    return {_START, _END} <= vocabulary


@hookimpl
def llmplug_chat_templates() -> list[ChatTemplateSpec]:
    """Offer it by name, and to every vocabulary that has its tokens."""
    return [
        ChatTemplateSpec(
            name="acme_plugin",
            source=_SOURCE,
            fits=_fits,
            stop_tokens=(_END,),
        )
    ]
