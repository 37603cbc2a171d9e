"""The check of chat templates finds what is planted, and passes what is right."""

from __future__ import annotations

from typing import Any

import pytest

from llmplug import ChatTemplateSpec
from llmplug.testing import check_chat_template

TOKENS = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|other|>"]
RIGHT = """\
{%- for m in messages %}{{ '<|' ~ m.role ~ '|>' ~ m.content ~ '<|end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
# It takes no system message, and trims what it shows.
STRICT = """\
{%- for m in messages %}
    {%- if m.role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}
    {{- '<|' ~ m.role ~ '|>' ~ (m.content | trim) ~ '<|end|>' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""


def check(source: str, *, same_as: str | None = None, **fields: Any) -> None:
    spec = ChatTemplateSpec(
        **{
            "name": "mine",
            "source": source,
            "fits": lambda tokens: "<|user|>" in tokens,
            "stop_tokens": ("<|end|>",),
            **fields,
        }
    )
    check_chat_template(spec, tokens=TOKENS, same_as=same_as)


def test_right_templates_pass() -> None:
    check(RIGHT, same_as=RIGHT.replace(" ~ m.content ~ ", " + m.content + "))
    check(STRICT)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (RIGHT.replace("endfor", "enfor"), "does not compile"),
        (RIGHT.replace("in messages", "in messages[-1:]"), "does not show 'hello' of"),
        (RIGHT.replace("in messages", "in messages | reverse"), "behind what comes before"),
        (RIGHT.replace("m.content", "m.content[:7]"), "does not show 'Good day! ✓'"),
        (RIGHT.replace("{%- if add", "{%- if not add"), "it appends the head of an answer"),
        (f"{{{{ add_generation_prompt }}}}{RIGHT}", "changes nothing before"),
        (RIGHT.replace("~ '<|end|>'", ""), "an answer under 'mine' ends with None"),
        (RIGHT.replace("'<|end|>'", "'<|other|>'"), "ends with '<|other|>'"),
    ],
)
def test_a_planted_bug_is_found(source: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words.replace("|", "\\|")):
        check(source)


def test_what_the_spec_says_is_tried_too() -> None:
    with pytest.raises(AssertionError, match="does not know a vocabulary with"):
        check(RIGHT, fits=lambda tokens: "<|none|>" in tokens)
    with pytest.raises(AssertionError, match="takes any vocabulary"):
        check(RIGHT, fits=lambda tokens: True)
    with pytest.raises(AssertionError, match="are none of the vocabulary"):
        check(RIGHT, stop_tokens=("<|none|>",))


def test_a_published_template_that_writes_something_else_is_told() -> None:
    with pytest.raises(AssertionError, match="`same_as`"):
        check(RIGHT, same_as=RIGHT.replace("m.content", "m.content | trim"))
