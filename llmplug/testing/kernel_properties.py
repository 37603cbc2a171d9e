"""What every kernel is held to, whoever wrote it: its reference, and its manners."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from llmplug.ops import REFERENCES, Op
from llmplug.ops.attacker_rows import count_rows, find_other_outputs, with_attacker
from llmplug.ops.attention_examples import apply_attention
from llmplug.ops.decoder_layer_examples import apply_decoder_layer
from llmplug.ops.linear import apply_linear
from llmplug.ops.rope_store import apply_rope_store
from llmplug.ops.table import make_reference_table
from llmplug.testing.closeness import expect_close
from llmplug.testing.expect import expect
from llmplug.testing.guarded_memory import GuardedMemory

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
REFERENCE_TABLE = make_reference_table(REFERENCES)
Examples = Sequence[Mapping[str, Any]]

# Arguments that an op says it may write to.
_WRITTEN = {
    "penalise_tokens": {"logits_SV"},
    "mask_tokens": {"logits_SV"},
    "filter_tokens": {"logits_SV"},
    "add_rms_norm": {"residual_TD"},
}
_UNWRITTEN = "NaN: an element is never written, or memory beyond a tensor is read"
_CALLS: dict[str, Callable[..., Any]] = {
    "attention": apply_attention,
    "linear": apply_linear,
    "decoder_layer": apply_decoder_layer,
    "rope_store": lambda ops, example: apply_rope_store(ops, example)[:1],
}


def reference_of(op: Op) -> Any:
    """Return what a kernel is compared with: of a composed op, a table."""
    return REFERENCE_TABLE if op.compose is not None else op.reference


def copied(example: Mapping[str, Any]) -> dict[str, Any]:
    """Copy an example: a kernel may write to what it is allowed to."""
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in example.items()}


def call(op: Op, kernel: Any, example: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """Return the outputs of one kernel on one example."""
    special = _CALLS.get(op.name)
    outputs = kernel(**copied(example)) if special is None else special(kernel, example)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def check_equals_reference(op: Op, kernel: Any, examples: Examples, dtype: str) -> None:
    """Each example gives what the reference gives, within the op's tolerances."""
    for number, example in enumerate(examples):
        if op.compare is not None:
            pairs = op.compare(kernel, reference_of(op), example)
        else:
            got, expected = call(op, kernel, example), call(op, op.reference, example)
            pairs = list(zip(got, expected, strict=True))
        where = f"{op.name} in {dtype}, example {number} ({describe(example)})"
        for x, y in pairs:
            expect(not y.isnan().any(), f"{where}: the reference itself gives NaN")
            hint = _UNWRITTEN if x.isnan().any() else "sum in float32, and round once"
            advice = f"{where} differs from llmplug.ops.{op.name}: {hint}"
            expect_close(x, y, op.tolerances[dtype], advice)


def check_first_row_stands_alone(op: Op, kernel: Any, examples: Examples) -> None:
    """The first row (sequence, text) is bitwise the same whatever the others hold."""
    for number, example in enumerate(examples):
        if "lens" in example:
            if count_rows(example) < 2:
                continue
            first = example["lens"][0][0]
            changed = {**example, "neighbours": 99}
        elif "num_tokens" in example:
            first, changed = 1, {**example, "factor": 1000}
        else:
            first, changed = _count_first_outputs(op, example), with_other_neighbours(example)
        before, after = call(op, kernel, example), call(op, kernel, changed)
        for x, y in zip(before, after, strict=True):
            _expect_same_rows(op, example, (number, "the first row"), (x[:first], y[:first]))


def check_rows_beside_an_attacker(op: Op, kernel: Any, examples: Examples) -> None:
    """All rows but one are bitwise the same when that one, the first or the last, is extreme."""
    for number, example in enumerate(examples):
        num_rows = count_rows(example)
        if num_rows < 2:
            continue
        before = call(op, kernel, example)
        for row in (0, num_rows - 1):
            after = call(op, kernel, with_attacker(example, row))
            for x, y in zip(before, after, strict=True):
                is_other = find_other_outputs(example, row, len(x))
                expect(
                    not bool(x[is_other].isnan().any()),
                    f"{op.name}, example {number} ({describe(example)}): NaN in a result",
                )
                which = f"a row beside row {row}, which is extreme,"
                _expect_same_rows(op, example, (number, which), (x[is_other], y[is_other]))


def _expect_same_rows(
    op: Op, example: Mapping[str, Any], which: tuple[int, str], rows: tuple[torch.Tensor, ...]
) -> None:
    number, name = which
    expect(
        torch.equal(*rows),
        f"{op.name}, example {number} ({describe(example)}): {name} changes with what other rows "
        "hold. A row must not be read, scaled or summed together with another: a request would "
        "get other tokens in a batch than alone.",
    )


def _count_first_outputs(op: Op, example: Mapping[str, Any]) -> int:
    """Return how many rows of the result belong to the first row, or to the first text."""
    is_by_token = "starts" in example and op.name != "pool_texts"
    return (*example["starts"], 0)[1] if is_by_token else 1


def with_other_neighbours(example: Mapping[str, Any], factor: float = 1000) -> dict[str, Any]:
    """Scale all rows but the first (text) of what has T or S for its first dimension."""
    changed = copied(example)
    first = (*example["starts"], 0)[1] if "starts" in example else 1
    for name, value in changed.items():
        is_of_rows = name.rpartition("_")[2].startswith(("T", "S"))
        if is_of_rows and isinstance(value, torch.Tensor) and value.is_floating_point():
            value[first:] *= factor
    return changed


def check_leaves_its_inputs_alone(op: Op, kernel: Any, examples: Examples) -> None:
    """Nothing is written but what the op says may be."""
    for example in examples:
        passed = copied(example)
        kernel(**passed)
        for name, value in example.items():
            if isinstance(value, torch.Tensor) and name not in _WRITTEN.get(op.name, set()):
                expect(
                    torch.equal(passed[name], value),
                    f"{op.name} writes to its argument {name}: allocate the output",
                )


def check_stays_within_its_tensors(op: Op, kernel: Any, examples: Examples) -> None:
    """With canaries round all tensors nothing changes, and the canaries live."""
    for number, example in enumerate(examples):
        plain = call(op, kernel, example)
        memory = GuardedMemory()
        guarded = memory.copy_all(example) if op.compare is None else example
        with memory.fresh_tensors():
            got = _CALLS[op.name](kernel, guarded) if op.compare else kernel(**guarded)
        memory.check()
        got = got if isinstance(got, tuple) else (got,)
        for x, y in zip(got, plain, strict=True):
            expect(
                torch.equal(x, y),
                f"{op.name}, example {number} ({describe(example)}): the result changes with what "
                "lies beside the tensors in memory, or in fresh memory: mask every load, and "
                "write every element of the output",
            )


def describe(example: Mapping[str, Any]) -> str:
    """Return an example in a line: shapes of tensors, and plain values."""
    words = []
    for name, value in example.items():
        if isinstance(value, torch.Tensor):
            words.append(f"{name} {tuple(value.shape)}")
        elif isinstance(value, int | float | str | bool):
            words.append(f"{name} {value}")
    return ", ".join(words)
