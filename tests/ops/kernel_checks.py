"""What tests of single kernels need of the test kit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmplug.testing import guarded_memory
from llmplug.testing.kernel_properties import (
    DTYPES,
    REFERENCE_TABLE,
    call,
    check_equals_reference,
    check_first_row_stands_alone,
    check_leaves_its_inputs_alone,
    check_rows_beside_an_attacker,
    copied,
    reference_of,
)

__all__ = [
    "DTYPES",
    "REFERENCE_TABLE",
    "call",
    "check_equals_reference",
    "check_first_row_stands_alone",
    "check_leaves_its_inputs_alone",
    "check_rows_beside_an_attacker",
    "copied",
    "poisoned_memory",
    "reference_of",
]


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill fresh memory with NaN, so that an output element never written to shows."""
    with guarded_memory.poisoned_memory():
        yield
