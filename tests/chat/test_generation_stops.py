"""Every id that ends an answer, from all places that name one."""

from __future__ import annotations

from typing import Any

import pytest

from llmplug import CheckpointError
from llmplug.chat.generation_stops import stop_token_ids
from llmplug.chat.tokenizer import Tokenizer

from .vocabularies import build, cached, files_of


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({}, None, set()),
        ({"eos_token_id": 7}, None, {7}),
        ({"eos_token_id": [7, 9]}, {}, {7, 9}),
        ({"eos_token_id": 7}, {"eos_token_id": [8]}, {8}),
        ({"eos_token_id": None}, {"eos_token_id": None}, set()),
    ],
)
def test_ids_of_the_configs(
    config: dict[str, Any], generation: dict[str, Any] | None, expected: set[int]
) -> None:
    assert stop_token_ids(cached("byte_level"), config, generation) == expected


def test_tokenizer_and_template_add_theirs() -> None:
    tokenizer = Tokenizer(files_of(build("sentencepiece"), eos_token="</s>"))
    ids = stop_token_ids(tokenizer, {"eos_token_id": 7}, None, ["<|im_end|>"])
    assert ids == {7, tokenizer.id_of("</s>"), tokenizer.id_of("<|im_end|>")}


def test_a_stop_that_is_no_token_is_refused() -> None:
    with pytest.raises(CheckpointError, match="<eot>"):
        stop_token_ids(cached("byte_level"), {}, None, ["<eot>"])


@pytest.mark.parametrize("declared", ["</s>", [1, "2"], True, 1.0])
def test_what_is_no_id_is_refused(declared: object) -> None:
    with pytest.raises(CheckpointError, match="eos_token_id"):
        stop_token_ids(cached("byte_level"), {"eos_token_id": declared}, None)
