"""Every kernel of every installed plugin, and every reference, against the reference.

A stranger's plugin is walked over too: install it, run this file.
"""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
import torch

from llmplug import KernelSpec
from llmplug.ops import REFERENCES
from llmplug.testing import check_kernel
from llmplug.testing.kernel_properties import DTYPES, REFERENCE_TABLE

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def find_kernels() -> list[KernelSpec]:
    references = [
        KernelSpec(
            op=op.name,
            name="reference",
            supports=lambda device, dtype: None,
            load=lambda name=op.name: getattr(REFERENCE_TABLE, name),
        )
        for op in REFERENCES.values()
    ]
    plugins = [point.load() for point in sorted(entry_points(group="llmplug"))]
    offered = [plugin.llmplug_kernels() for plugin in plugins if hasattr(plugin, "llmplug_kernels")]
    return references + [spec for specs in offered for spec in specs]


CASES = [
    pytest.param(spec, device, dtype, id=f"{spec.op}-{spec.name}-{device}-{dtype}")
    for spec in find_kernels()
    for device in DEVICES
    for dtype in DTYPES
]


@pytest.mark.parametrize(("spec", "device", "dtype"), CASES)
def test_what_holds_for_every_kernel(spec: KernelSpec, device: str, dtype: str) -> None:
    reason = spec.supports(device, dtype)
    if reason is not None:
        pytest.skip(reason)
    check_kernel(spec, device=device, dtype=dtype, others=find_kernels())
