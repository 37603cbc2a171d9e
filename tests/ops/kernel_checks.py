"""What every kernel is held to, whoever wrote it: its reference, and its manners."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch

from llmplug.ops import REFERENCES, Op
from llmplug.ops.attacker_rows import count_rows, find_other_outputs, with_attacker
from llmplug.ops.attention_examples import apply_attention
from llmplug.ops.decoder_layer_examples import apply_decoder_layer
from llmplug.ops.linear import apply_linear
from llmplug.ops.rope_store import apply_rope_store
from llmplug.ops.table import make_reference_table

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
REFERENCE_TABLE = make_reference_table(REFERENCES)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill fresh memory with NaN, so that an output element never written to shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def reference_of(op: Op) -> Any:
    return REFERENCE_TABLE if op.compose is not None else op.reference


def copied(example: Mapping[str, Any]) -> dict[str, Any]:
    """A kernel may write to what it is allowed to; the other side gets its own tensors."""
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in example.items()}


def call(op: Op, kernel: Any, example: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """The outputs of one kernel on one example."""
    apply: dict[str, Callable[..., Any]] = {
        "attention": apply_attention,
        "linear": apply_linear,
        "decoder_layer": apply_decoder_layer,
        "rope_store": lambda ops, example: apply_rope_store(ops, example)[:1],
    }
    outputs = apply[op.name](kernel, example) if op.name in apply else kernel(**copied(example))
    return outputs if isinstance(outputs, tuple) else (outputs,)


def check_equals_reference(
    op: Op, kernel: Any, examples: Sequence[Mapping[str, Any]], dtype: str
) -> None:
    rtol, atol = op.tolerances[dtype]
    for example in examples:
        if op.compare is not None:
            pairs = op.compare(kernel, reference_of(op), example)
        else:
            got, expected = call(op, kernel, example), call(op, op.reference, example)
            pairs = list(zip(got, expected, strict=True))
        for got_tensor, expected_tensor in pairs:
            assert not expected_tensor.isnan().any()
            torch.testing.assert_close(got_tensor, expected_tensor, rtol=rtol, atol=atol)


def check_first_row_stands_alone(
    op: Op, kernel: Any, examples: Sequence[Mapping[str, Any]]
) -> None:
    """The first row (sequence) is bitwise the same whatever the others hold."""
    for example in examples:
        if "lens" in example:
            if len(example["lens"]) < 2:
                continue
            first = example["lens"][0][0]
            changed = {**example, "neighbours": 99}
        elif "num_tokens" in example:
            first, changed = 1, {**example, "factor": 1000}
        else:
            first, changed = count_first_outputs(op, example), with_other_neighbours(example)
        before, after = call(op, kernel, example), call(op, kernel, changed)
        for x, y in zip(before, after, strict=True):
            assert torch.equal(x[:first], y[:first])


def check_rows_beside_an_attacker(
    op: Op, kernel: Any, examples: Sequence[Mapping[str, Any]]
) -> None:
    """All rows but one are bitwise the same when that one, the first or the last, is extreme."""
    for example in examples:
        num_rows = count_rows(example)
        if num_rows < 2:
            continue
        before = call(op, kernel, example)
        for row in (0, num_rows - 1):
            after = call(op, kernel, with_attacker(example, row))
            for x, y in zip(before, after, strict=True):
                is_other = find_other_outputs(example, row, len(x))
                assert not x[is_other].isnan().any()
                assert torch.equal(x[is_other], y[is_other]), (op.name, row)


def count_first_outputs(op: Op, example: Mapping[str, Any]) -> int:
    """The rows of the result that belong to the first row, or to the first text."""
    is_by_token = "starts" in example and op.name != "pool_texts"
    return (*example["starts"], 0)[1] if is_by_token else 1


def with_other_neighbours(example: Mapping[str, Any], factor: float = 1000) -> dict[str, Any]:
    """Huge values in all rows but the first (text), of what has T or S for its first dimension."""
    changed = copied(example)
    first = (*example["starts"], 0)[1] if "starts" in example else 1
    for name, value in changed.items():
        is_of_rows = name.rpartition("_")[2].startswith(("T", "S"))
        if is_of_rows and isinstance(value, torch.Tensor) and value.is_floating_point():
            value[first:] *= factor
    return changed


def check_leaves_its_inputs_alone(
    op: Op, kernel: Any, examples: Sequence[Mapping[str, Any]]
) -> None:
    edits_logits = op.name in {"penalise_tokens", "mask_tokens", "filter_tokens"}
    may_write = {"logits_SV"} if edits_logits else set()
    may_write |= {"residual_TD"} if op.name == "add_rms_norm" else set()
    for example in examples:
        passed = copied(example)
        kernel(**passed)
        for name, value in example.items():
            if isinstance(value, torch.Tensor) and name not in may_write:
                assert torch.equal(passed[name], value), name
