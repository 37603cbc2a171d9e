"""The ChatML template equals the one that checkpoints of this format carry."""

from __future__ import annotations

import pytest

import llmplug_chatml
from llmplug.testing import check_chat_template

# As many published checkpoints have it.
REFERENCE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_what_holds_for_every_template_and_that_it_renders_like_the_reference() -> None:
    (spec,) = llmplug_chatml.llmplug_chat_templates()
    check_chat_template(spec, tokens=["<|im_start|>", "<|im_end|>"], same_as=REFERENCE)


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
