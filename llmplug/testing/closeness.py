"""How two tensors are compared, with words for the plugin's author."""

from __future__ import annotations

import torch


def expect_close(
    got: torch.Tensor, expected: torch.Tensor, tolerances: tuple[float, float], advice: str
) -> None:
    """Raise unless tensors of one shape and dtype are equal within (rtol, atol).

    Raises:
        AssertionError: begins with the advice, and says where they differ most.
    """
    rtol, atol = tolerances
    torch.testing.assert_close(
        got, expected, rtol=rtol, atol=atol, msg=lambda text: f"{advice}\n{text}"
    )
