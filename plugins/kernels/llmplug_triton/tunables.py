"""The free parameters of all kernels, by op; each is declared beside its kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug_triton.gelu_mul import GELU_MUL
from llmplug_triton.silu_mul import SILU_MUL

if TYPE_CHECKING:
    from llmplug.ops import Tunable

TUNABLES: dict[str, list[Tunable]] = {
    "gelu_mul": [GELU_MUL],
    "silu_mul": [SILU_MUL],
}
