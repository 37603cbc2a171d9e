"""What ranks that compute one model together say to each other.

Legend: T packed tokens, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Collective(Protocol):
    """One rank's end. All ranks make the same calls in the same order, on their own devices.

    Calls wait for no host, so that they can be captured in a graph.
    """

    @property
    def rank(self) -> int:
        """Of this end, from 0."""

    @property
    def num_ranks(self) -> int:
        """Of all."""

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of all ranks' tensors, the same on each; may write to its argument."""

    def all_gather(self, x_TO: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
        """Join all ranks' tensors along the last dimension, by rank.

        Args:
            widths: of each rank's tensor.
        """
