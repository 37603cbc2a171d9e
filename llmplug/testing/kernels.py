"""Check a kernel: it is a twin of its reference, and a good neighbour in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from llmplug.ops import REFERENCES, KernelTable
from llmplug.ops.scale_support import explain_no_scales
from llmplug.testing.expect import expect
from llmplug.testing.guarded_memory import poisoned_memory
from llmplug.testing.kernel_properties import (
    DTYPES,
    REFERENCE_TABLE,
    check_equals_reference,
    check_first_row_stands_alone,
    check_leaves_its_inputs_alone,
    check_rows_beside_an_attacker,
    check_stays_within_its_tensors,
)

if TYPE_CHECKING:
    from llmplug.specs import KernelSpec


def check_kernel(
    spec: KernelSpec,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    others: Sequence[KernelSpec] = (),
) -> None:
    """Try a kernel on all examples of its op: odd shapes and an empty batch among them.

    What it gives equals the reference within the op's tolerances, in memory that was filled with
    NaN; a row does not depend on its neighbours, to the bit, whatever an attacker makes of one;
    inputs stay as they are; nothing is read or written beyond a tensor.

    Args:
        spec: from `llmplug_kernels()`; where it supports scales of a cache, these are tried too.
        device: type of the device, one that `spec.supports`.
        dtype: name of the dtype, the same.
        others: kernels of the same plugin, of which those that `spec.needs` are used.

    Raises:
        AssertionError: says what differs on which example, or that it is not supported there.
    """
    kernel = load_kernel(spec, device, dtype, others)
    op = REFERENCES[spec.op]
    examples = list_examples(spec, device, dtype)
    with poisoned_memory():
        check_equals_reference(op, kernel, examples, dtype)
        check_first_row_stands_alone(op, kernel, examples)
        check_rows_beside_an_attacker(op, kernel, examples)
        if op.compare is None:  # else its inputs are made inside the comparison
            check_leaves_its_inputs_alone(op, kernel, examples)
    check_stays_within_its_tensors(op, kernel, examples)


def list_examples(spec: KernelSpec, device: str, dtype: str) -> list[Mapping[str, Any]]:
    """Return the examples of a kernel's op, with scales of caches too where it heeds them."""
    op, where = REFERENCES[spec.op], (torch.device(device), DTYPES[dtype])
    examples = list(op.example_inputs(*where))
    if op.scaled_inputs is not None and explain_no_scales(spec, device) is None:
        examples += op.scaled_inputs(*where)
    return examples


def load_kernel(
    spec: KernelSpec, device: str, dtype: str, others: Sequence[KernelSpec] = ()
) -> Any:
    """Load a kernel; of one that fuses ops, a table of references but for it and what it needs."""
    expect(
        spec.op in REFERENCES,
        f"the kernel {spec.name!r} is of {spec.op!r}, which is no op of llmplug.ops; known ops: "
        f"{', '.join(REFERENCES)}",
    )
    reason = spec.supports(device, dtype)
    expect(reason is None, f"{spec.op}/{spec.name} does not run on {device} in {dtype}: {reason}")
    if REFERENCES[spec.op].compose is None:
        return spec.load()
    mine = {each.op: each for each in (*others, spec) if each.name == spec.name}
    missing = [op for op in spec.needs if op not in mine]
    expect(
        not missing,
        f"{spec.op}/{spec.name} needs kernels of its name for {', '.join(missing)}: give them as "
        "`others`",
    )
    loaded = {op: mine[op].load() for op in (spec.op, *spec.needs)}
    references = {op: getattr(REFERENCE_TABLE, op) for op in REFERENCES}
    return KernelTable({**references, **loaded})
