"""The ops' examples with other numbers each time: every argument is drawn anew, and stays valid.

Examples draw all that they hold from generators with seeds of their own. With a shift added to
those seeds they draw other numbers, ids and orders, within the same rules.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def shifted_seeds(shift: int) -> Iterator[None]:
    """Add a number to the seeds of all generators that are made meanwhile; 0: none."""

    class Shifted(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(seed + shift)

    with patch.object(torch, "Generator", Shifted):
        yield
