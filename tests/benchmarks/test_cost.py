"""What a model asks of a machine: counted by hand from the shapes of a tiny one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import make_checkpoint

from benchmarks.cost import ModelCost, find_cost
from llmplug import KernelInputError

# As tests/tiny.py has it: width 48, feed-forward 75, 6 query heads and 2 key/value heads of 8.
LAYERS, WIDTH, FORWARD, VOCAB, KV_WIDTH = 2, 48, 75, 263, 16
BODY = LAYERS * (2 * WIDTH * WIDTH + 2 * WIDTH * KV_WIDTH + 3 * WIDTH * FORWARD)
HEAD = VOCAB * WIDTH
NORMS = (2 * LAYERS + 1) * WIDTH


def cost_of(variant: str, folder: Path, **changes: str) -> ModelCost:
    make_checkpoint(variant, folder)
    config = folder / "config.yaml"
    config.write_text(f"models:\n  - source: {folder}\n    cache: {{memory: 16MiB}}\n")
    sets = [f"models.0.{name.replace('__', '.')}={value}" for name, value in changes.items()]
    cost = find_cost(config, sets)
    assert cost is not None
    return cost


@pytest.mark.parametrize("variant", ["llama", "llama-head-dim"])
def test_every_weight_but_the_embedding_is_read_once(variant: str, tmp_path: Path) -> None:
    cost = cost_of(variant, tmp_path, weights__format="float32")
    if variant == "llama":
        assert (cost.body_params, cost.head_params) == (BODY, HEAD)
        assert cost.weight_bytes == 4 * (BODY + HEAD + NORMS)
        assert cost.kv_bytes_per_token == 2 * LAYERS * KV_WIDTH * 2
    else:  # 6 heads of 22, one of keys and values
        attention = 2 * WIDTH * 6 * 22 + 2 * WIDTH * 22
        assert cost.body_params == LAYERS * (attention + 3 * WIDTH * FORWARD)
        assert cost.kv_bytes_per_token == 2 * LAYERS * 22 * 2
    assert not cost.is_integer


def test_head_that_is_tied_to_the_embedding_is_read_all_the_same(tmp_path: Path) -> None:
    cost = cost_of("llama-tied", tmp_path, weights__format="float32")
    assert cost.head_params == HEAD
    assert cost.weight_bytes == 4 * (cost.body_params + HEAD + NORMS)


def test_weights_that_are_kept_smaller_lower_the_bytes(tmp_path: Path) -> None:
    exact = cost_of("llama", tmp_path / "a", weights__format="float32")
    try:
        small = cost_of("llama", tmp_path / "b", weights__format="int8")
    except KernelInputError as error:
        pytest.skip(str(error))  # no compiler, or no AVX2
    assert small.is_integer
    assert small.body_params == exact.body_params
    assert (BODY + HEAD) <= small.weight_bytes < exact.weight_bytes / 2


def test_without_a_config_there_is_no_cost() -> None:
    assert find_cost(None) is None
