"""What a ModernBERT's config says; test_bert.py holds its numbers against transformers."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from llmplug import CheckpointError
from llmplug_modernbert.settings import read_settings

CONFIG: dict[str, Any] = {"architectures": ["ModernBertModel"], "vocab_size": 10}
# As the checkpoints of 2024 say it.
OLDER: dict[str, Any] = {
    **CONFIG,
    "global_attn_every_n_layers": 2,
    "global_rope_theta": 900.0,
    "local_rope_theta": 50.0,
    "num_hidden_layers": 4,
    "position_embedding_type": "absolute",
}


@pytest.mark.parametrize("config", [CONFIG, OLDER])
def test_older_files_say_what_newer_ones_do(config: dict[str, Any]) -> None:
    newer = transformers.ModernBertConfig(**config).to_dict()
    assert {"rope_parameters", "layer_types"} <= set(newer)
    old, new = read_settings(config), read_settings({**newer, **CONFIG})
    assert old.layer_types == new.layer_types
    assert {kind: rope.theta for kind, rope in old.ropes.items()} == {
        kind: rope.theta for kind, rope in new.ropes.items()
    }
    assert (old.window, old.context_length) == (new.window, new.context_length)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"hidden_activation": "relu"}, "hidden_activation"),
        ({"classifier_activation": "tanh"}, "classifier_activation"),
        ({"classifier_pooling": "max"}, "classifier_pooling"),
        ({"hidden_size": 100}, "heads"),
        ({"num_hidden_layers": 2, "layer_types": ["full_attention"]}, "layer_types"),
        ({"num_hidden_layers": 1, "layer_types": ["linear_attention"]}, "layer_types"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, "rope_parameters"),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, "dynamic"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_settings_that_change_the_result_are_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(CheckpointError, match=word):
        read_settings({**CONFIG, **changes})
