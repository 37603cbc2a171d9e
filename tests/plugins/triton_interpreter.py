"""Triton's interpreter, put right where it differs from a GPU."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

# Bits of the formats that the interpreter keeps as bytes.
_BITS = {"bf16": (torch.bfloat16, torch.uint16), "fp8e4nv": (torch.float8_e4m3fn, torch.uint8)}


@pytest.fixture(autouse=True)
def interpreter_that_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round float32 to the nearest, as GPUs do; the interpreter cuts the last bits off."""
    interpreter = importlib.import_module("triton.runtime.interpreter")
    convert = interpreter._convert_float

    def convert_float(array, source, target, rounding_mode):
        if str(source) != "fp32" or str(target) not in _BITS:
            return convert(array, source, target, rounding_mode)
        dtype, bits = _BITS[str(target)]
        return torch.from_numpy(np.array(array)).to(dtype).view(bits).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", convert_float)
