"""The compiled library: its functions with their argument types, set once.

Pointers travel as integers (`tensor.data_ptr()`); the caller keeps the tensors alive and has
checked dtypes, devices and strides: nothing here can.
"""

from __future__ import annotations

import ctypes
import functools

import torch

from llmplug import KernelInputError
from llmplug_cpu.build import find_or_build

_POINTER, _INT64, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS = {
    "llmplug_rms_norm": (
        _POINTER, _INT64, _POINTER, _POINTER, _INT64, _INT64, _FLOAT, _POINTER, _POINTER
    ),
    "llmplug_silu_mul": (_POINTER, _INT64, _INT64, _INT64, _POINTER),
    "llmplug_rope": (
        _POINTER, _INT64, _INT64, _POINTER, _POINTER, _INT64, _INT64, _POINTER, _POINTER,
        _POINTER, _INT64, _INT64, _INT64,
    ),
    "llmplug_store": (
        _POINTER, _INT64, _POINTER, _INT64, _POINTER, _INT64, _INT64, _INT64, _INT64, _INT64,
        _POINTER, _POINTER,
    ),
    "llmplug_attend": (_POINTER,),
    "llmplug_decoder_layer": (_POINTER, _POINTER, _POINTER, _POINTER, _INT64, _INT64),
    "llmplug_linear": (_POINTER, _POINTER, _INT64, _INT64, _POINTER),
    "llmplug_linear_add": (_POINTER, ctypes.c_int, _INT64, _INT64, _POINTER),
    "llmplug_linear_free": (_POINTER,),
    "llmplug_pack_float32": (_POINTER, _INT64, _INT64, _INT64, _POINTER),
    "llmplug_pack_bfloat16": (_POINTER, _INT64, _INT64, _INT64, _POINTER),
    "llmplug_pack_int8": (_POINTER, _INT64, _INT64, _INT64, _POINTER, _POINTER),
    "llmplug_pack_blocks": (ctypes.c_int, _POINTER, _INT64, _INT64, _INT64, _POINTER),
}  # fmt: skip


@functools.cache
def load_library() -> ctypes.CDLL:
    """Load the library, compiling it if need be, and start its threads.

    As many threads as torch has, and never more than the CPUs that this process may use.

    Raises:
        PluginError: it cannot be compiled.
    """
    library = ctypes.CDLL(str(find_or_build()))
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = None
    library.llmplug_packed_bytes.argtypes = (ctypes.c_int, _INT64, _INT64)
    library.llmplug_packed_bytes.restype = _INT64
    library.llmplug_linear_new.argtypes = (_INT64, _INT64, _POINTER)
    library.llmplug_linear_new.restype = _POINTER
    library.llmplug_start_threads.argtypes = (ctypes.c_int,)
    library.llmplug_start_threads.restype = ctypes.c_int
    library.llmplug_start_threads(torch.get_num_threads())
    return library


def as_rows(x: torch.Tensor, name: str) -> torch.Tensor:
    """Return x as float32 rows whose last dimension is dense; a copy only if it is not so already.

    Raises:
        KernelInputError: another dtype or device.
    """
    if x.dtype is not torch.float32 or not x.is_cpu:
        raise KernelInputError(f"{name} must be float32 on the cpu, not {x.dtype} on {x.device}")
    return x if x.stride(-1) == 1 else x.contiguous()
