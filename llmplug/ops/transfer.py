"""Numbers of the host for a device that must not be waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


def send_to_device(
    values: Sequence[float], device: torch.device, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Make a tensor as `torch.tensor(values, device=device)` does, but go on at once.

    On a GPU `torch.tensor` waits until all that was launched before is done. This copies from
    page-locked memory, which torch hands out again once the device has read it.
    """
    tensor = torch.tensor(values, dtype=dtype)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
