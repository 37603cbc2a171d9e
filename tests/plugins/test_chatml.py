"""The ChatML template equals the one that checkpoints of this format carry."""

from __future__ import annotations

import jinja2
import pytest

import llmplug_chatml

# As many published checkpoints have it.
REFERENCE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MESSAGES = [
    {"role": "system", "content": " be kind \n"},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": ""},
]


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("num_messages", range(4))
def test_renders_like_the_reference(num_messages: int, add_generation_prompt: bool) -> None:
    (spec,) = llmplug_chatml.llmplug_chat_templates()
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
    variables = {
        "messages": MESSAGES[:num_messages],
        "add_generation_prompt": add_generation_prompt,
    }
    ours, expected = (
        environment.from_string(source).render(variables) for source in (spec.source, REFERENCE)
    )
    assert ours == expected


@pytest.mark.parametrize(
    ("vocabulary", "fits"),
    [
        ({"<|im_start|>", "<|im_end|>", "a"}, True),
        ({"<|im_start|>", "a"}, False),
        ({"<|im_end|>"}, False),
        (set(), False),
    ],
)
def test_fits_vocabularies_with_its_tokens(vocabulary: set[str], fits: bool) -> None:
    (spec,) = llmplug_chatml.llmplug_chat_templates()
    assert spec.fits(frozenset(vocabulary)) is fits
    assert spec.stop_tokens == ("<|im_end|>",)
