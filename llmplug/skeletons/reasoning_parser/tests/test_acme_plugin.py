from llmplug.testing import check_reasoning_parser

from acme_plugin import llmplug_reasoning_parsers

# As the model's own template writes a conversation, in as few words as will do.
TEMPLATE = """\
{%- for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' }}
    {%- if m.reasoning_content %}{{ '[[think]]' ~ m.reasoning_content ~ '[[/think]]' }}{% endif %}
    {{- (m.content or '') ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def test_reasoning_parser() -> None:
    (spec,) = llmplug_reasoning_parsers()
    check_reasoning_parser(spec, template=TEMPLATE, tokens=["<|im_start|>", "<|im_end|>"])
