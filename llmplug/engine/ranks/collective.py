"""What ranks sum and gather, over torch.distributed: NCCL between GPUs, gloo on the CPU.

Only tensors are sent, and nothing that would be unpickled. The process groups are objects that are
passed, not torch's global one. What listens, listens on the loopback interface, or on the address
by which ranks of other machines find it: there anyone can talk to it, so that network must be
private.

Legend: T packed tokens, O outputs.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import distributed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Ranks wait for each other while one still compiles kernels or reads a slow disk. One that has
# died is found out by its process, not by this.
TIMEOUT = timedelta(hours=2)
LOOPBACK = "127.0.0.1"


class GroupCollective:
    """One rank's end; implements `llmplug.ops.collective.Collective`."""

    def __init__(
        self, store: Any, rank: int, num_ranks: int, device: torch.device, host: str = LOOPBACK
    ) -> None:
        """Meet the other ranks; waits until all are there.

        Args:
            store: a `torch.distributed.Store` that all have: `open_store`, or a link to one.
            host: address of this rank for the others.
        """
        self.rank = rank
        self.num_ranks = num_ranks
        self._device = device
        open_group = _open_nccl if device.type == "cuda" else _open_gloo
        self._group = open_group(store, rank, num_ranks, host)
        self.find_least(0)  # NCCL only now opens what it needs, which a graph could not record

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of all ranks' tensors, the same on each; may write to its argument.

        On the CPU it is summed in the order of the ranks, so that what a row gets does not depend
        on the other rows; two ranks need no order.
        """
        if self._device.type == "cpu" and self.num_ranks > 2:
            first, *others = self._gather(x)
            for each in others:
                first += each
            return first
        x = x.contiguous()
        self._group.allreduce([x]).wait()
        return x

    def all_gather(self, x_TO: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
        """Join all ranks' tensors along the last dimension, by rank."""
        widest = max(widths)
        parts = self._gather(F.pad(x_TO, (0, widest - x_TO.shape[-1])))
        cut = [part[..., :width] for part, width in zip(parts, widths, strict=True)]
        return torch.cat(cut, -1)

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        """Return rank 0's tensor; the others give one of the same shape, which is written to."""
        x = x.contiguous()
        self._group.broadcast(x, 0).wait()
        return x

    def find_least(self, number: int) -> int:
        """Return the least of all ranks' numbers; waits for the device."""
        found = torch.tensor([number], device=self._device)
        options: Any = distributed.AllreduceOptions()
        options.reduceOp = distributed.ReduceOp.MIN
        self._group.allreduce([found], options).wait()
        return int(found)

    def _gather(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(self.num_ranks)]
        self._group.allgather([parts], [x]).wait()
        return parts


def open_store(path: Path, num_ranks: int) -> Any:
    """Open the store by which ranks of one machine find each other.

    Args:
        path: of a file that all can open, in a folder that nobody else can.
    """
    return distributed.FileStore(str(path), num_ranks)  # type: ignore[attr-defined]


# torch's types lack much of what its documentation names.
def _open_gloo(store: Any, rank: int, num_ranks: int, host: str) -> Any:
    kind: Any = distributed.ProcessGroupGloo
    options = kind._Options()
    options._devices = [kind.create_device(hostname=host)]
    options._timeout = TIMEOUT
    return kind(store, rank, num_ranks, options)


def _open_nccl(store: Any, rank: int, num_ranks: int, host: str) -> Any:
    # By that ranks find each other; what they compute goes from GPU to GPU. No option says it.
    os.environ.setdefault(
        "TORCH_NCCL_ENABLE_MONITORING", "0"
    )  # it would ask the store all the time
    if host == LOOPBACK:
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    kind: Any = distributed.ProcessGroupNCCL
    options = kind.Options()
    options._timeout = TIMEOUT
    return kind(store, rank, num_ranks, options)
