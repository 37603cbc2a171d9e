"""Chat templates that do to messages what real ones do."""

from __future__ import annotations

PLAIN = """\
{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}\
{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# Control tokens stand directly beside text, and text is trimmed.
BRACKETS = """\
{%- for m in messages %}
    {%- if m.role == 'assistant' %}{{ m.content | trim }}{{ '<|im_end|>' }}
    {%- else %}{{ '[INST]' ~ (m.content | trim) ~ '[/INST]' }}
    {%- endif %}
{%- endfor %}"""

# Nothing at all between messages.
BARE = "{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>"

# Half a token on both sides of what users write, and tokens from roles.
TAGS = """\
{%- for m in messages %}{{ '<|' ~ m.role ~ '|>' ~ m.content ~ '<|im_end|>' }}
    {%- for key, value in (m.extra or {}) | items %}{{ '<' ~ key ~ '>' ~ value ~ '</' ~ key ~ '>' }}
    {%- endfor %}
{%- endfor %}"""

# Texts change case, get split and put together again.
CHANGES = """\
{%- for m in messages %}
    {{- '<|im_start|>' ~ (m.content | lower) ~ (m.content | upper | lower) }}
    {{- m.content.split('|') | join('|') ~ m.content.split(' ') | join('') ~ '<|im_end|>' }}
{%- endfor %}"""

# Looks for thinking in answers, as reasoning models' templates do.
THINKING = """\
{%- for m in messages %}
    {%- set ns = namespace(content=m.content, thought=m.reasoning_content or '') %}
    {%- if m.role == 'assistant' and '</think>' in m.content %}
        {%- set ns.thought = m.content.split('</think>')[0].rstrip('\n') %}
        {%- set ns.thought = ns.thought.split('<think>')[-1].lstrip('\n') %}
        {%- set ns.content = m.content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' + m.role + '\n' }}
    {%- if ns.thought and loop.last %}{{ '<think>\n' + ns.thought + '\n</think>\n\n' }}{% endif %}
    {{- ns.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

TOOLS = """\
{%- if tools %}{{ '<|im_start|>system\n' }}
    {%- for tool in tools %}{{ tool | tojson }}
        {%- if tool.function.parameters.type == 'object' %}{{ ' takes' }}
            {%- for name in tool.function.parameters.properties %}{{ ' ' + name }}{% endfor %}
        {%- endif %}
    {%- endfor %}{{ '<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}
    {%- if m.content is string %}{{ m.content }}
    {%- else %}{% for part in m.content or [] %}{{ part.text }}{% endfor %}
    {%- endif %}
    {%- for call in m.tool_calls or [] %}
        {{- '<think>' + call.function.name + (call.function.arguments | tojson) + '</think>' }}
    {%- endfor %}{{ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

DIALECTS = {
    "plain": PLAIN,
    "brackets": BRACKETS,
    "bare": BARE,
    "tags": TAGS,
    "changes": CHANGES,
    "thinking": THINKING,
    "tools": TOOLS,
}
