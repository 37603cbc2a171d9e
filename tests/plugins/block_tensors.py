"""Quantised weights in memory, as a loader hands them to a kernel."""

from __future__ import annotations

from dataclasses import dataclass

import gguf
import numpy as np
import torch

from llmplug.ops import LoadedTensor

BLOCKS = ("Q4_0", "Q4_1", "Q8_0")


@dataclass(frozen=True)
class BlockTensor:
    """Blocks in memory, as the gguf loader hands them over."""

    shape: tuple[int, int]
    format: str
    blocks: np.ndarray

    @property
    def num_bytes(self) -> int:
        return self.blocks.nbytes

    def raw(self) -> torch.Tensor:
        return torch.from_numpy(self.blocks.copy())

    def load(self) -> torch.Tensor:
        kind = gguf.GGMLQuantizationType[self.format]
        return torch.from_numpy(gguf.quants.dequantize(self.blocks, kind))


def make_blocks(weight_OI: torch.Tensor, name: str) -> BlockTensor:
    kind = gguf.GGMLQuantizationType[name]
    blocks = gguf.quants.quantize(weight_OI.numpy(), kind)
    return BlockTensor(tuple(weight_OI.shape), name, blocks)


def make_source(weight_OI: torch.Tensor, name: str) -> BlockTensor | LoadedTensor:
    return make_blocks(weight_OI, name) if name in BLOCKS else LoadedTensor(weight_OI)
