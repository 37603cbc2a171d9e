from llmplug.testing import check_tool_parser

from acme_plugin import llmplug_tool_parsers

# As the model's own template writes a conversation, in as few words as will do.
TEMPLATE = """\
{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ (m.content or '') }}
    {%- for call in m.tool_calls or [] %}
        {{- '[[call]]{"name": "' ~ call.function.name ~ '", "arguments": ' }}
        {{- call.function.arguments | tojson ~ '}[[/call]]' }}
    {%- endfor %}{{ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def test_tool_parser() -> None:
    (spec,) = llmplug_tool_parsers()
    check_tool_parser(spec, template=TEMPLATE, tokens=["<|im_start|>", "<|im_end|>"])
