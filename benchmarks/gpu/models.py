"""Shapes of real models, with random weights that are made on the device, and models in files.

Speed does not depend on what weights say; no file is needed, and none is read but by the check.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import llmplug_gguf
import llmplug_llama
import llmplug_qwen3
from llmplug import BuildContext, Model, ModelShape, ModelSpec
from llmplug.engine.loading import load_weights
from llmplug.ops import REFERENCES, KernelTable, LoadedTensor, choose_kernels, load_kernels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.gpu.device import Bench
    from llmplug import Checkpoint

_SPREAD = 0.02  # as models are initialised
_LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
          "rms_norm_eps": 1e-5, "rope_theta": 500000.0}  # fmt: skip
_QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu",
          "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "head_dim": 128,
          "max_position_embeddings": 40960}  # fmt: skip
# From the config.json of each model.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {**_LLAMA, "vocab_size": 128256, "hidden_size": 4096,
                     "intermediate_size": 14336, "num_hidden_layers": 32,
                     "num_attention_heads": 32, "num_key_value_heads": 8,
                     "max_position_embeddings": 40960, "tie_word_embeddings": False},
    "qwen3-0.6b": {**_QWEN3, "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072,
                   "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
                   "tie_word_embeddings": True},
    "qwen3-8b": {**_QWEN3, "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288,
                 "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
                 "tie_word_embeddings": False},
    "smollm2-135m": {**_LLAMA, "rope_theta": 100000.0, "vocab_size": 49152, "hidden_size": 576,
                     "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
                     "num_key_value_heads": 3, "max_position_embeddings": 8192,
                     "tie_word_embeddings": True},
}  # fmt: skip
TINY: dict[str, Any] = {**_LLAMA, "vocab_size": 263, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "tie_word_embeddings": False}  # fmt: skip
_SPECS = [*llmplug_llama.llmplug_models(), *llmplug_qwen3.llmplug_models()]


@dataclass(frozen=True, slots=True)
class RandomCheckpoint:
    """Tensors by name, made when they are read, the same for the same name."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, LoadedTensor]


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A model, what it is made of, and what a step must read and compute."""

    name: str
    model: Model
    shape: ModelShape
    ops: KernelTable
    state: Mapping[str, torch.Tensor]  # by the names of its files
    config: Mapping[str, Any]
    weight_bytes: int  # that every step reads
    num_params: int  # that every token is multiplied with

    def kv_bytes(self, itemsize: int) -> int:
        """Bytes of a cached token, of all layers."""
        return sum(2 * c.num_kv_heads * c.head_width * itemsize for c in self.shape.layers)


def take_kernels(bench: Bench) -> KernelTable:
    """The Triton kernels on a GPU, references on a CPU."""
    from llmplug_triton import llmplug_kernels

    specs = [(spec, "triton") for spec in llmplug_kernels()]
    dtype = str(bench.dtype).removeprefix("torch.")
    return load_kernels(
        REFERENCES, specs, choose_kernels(REFERENCES, specs, bench.device.type, dtype)
    )


def build_model(bench: Bench, name: str) -> BuiltModel:
    """Make a model of `CONFIGS`; with `--tiny` a tiny one under that name."""
    config = TINY if bench.is_tiny else CONFIGS[name]
    spec = _find_spec(config)
    state: dict[str, torch.Tensor] = {}
    for weight in spec.weights(config):
        layers = range(spec.describe(config).num_layers) if "{layer}" in weight.name else range(1)
        # A tied head has no tensor of its own.
        is_tied = bool(weight.tied_to) and bool(config["tie_word_embeddings"])
        for layer in () if is_tied else layers:
            for source, rows in zip(weight.sources, weight.rows, strict=True):
                size = (rows,) if weight.columns is None else (rows, weight.columns)
                state[source.format(layer=layer)] = _make(bench, source.format(layer=layer), size)
    checkpoint = RandomCheckpoint(
        Path(name), config, {key: LoadedTensor(tensor) for key, tensor in state.items()}
    )
    return _build(bench, name, checkpoint, state)


def build_checkpoint(bench: Bench, path: Path) -> tuple[BuiltModel, Checkpoint]:
    """Build the model of a GGUF file; weights in few bits stay so, `state` has them dequantised."""
    (loader,) = llmplug_gguf.llmplug_model_loaders()
    checkpoint = loader.open(path)
    state = {
        name: tensor.load().to(bench.device, bench.dtype)
        for name, tensor in checkpoint.tensors.items()
    }
    return _build(bench, path.name, checkpoint, state), checkpoint


def _find_spec(config: Mapping[str, Any]) -> ModelSpec:
    return next(s for s in _SPECS if config["architectures"][0] in s.architectures)


def _build(
    bench: Bench, name: str, checkpoint: Any, state: Mapping[str, torch.Tensor]
) -> BuiltModel:
    config, spec, ops = checkpoint.config, _find_spec(checkpoint.config), take_kernels(bench)
    shape, table = spec.describe(config), spec.weights(config)
    common: dict[str, Any] = {"device": bench.device, "dtype": bench.dtype}
    weights = load_weights(
        checkpoint, table, spec.ignored, shape.num_layers, ops,
        progress=lambda stage, done, total: None, **common,
    )  # fmt: skip
    model = spec.build(BuildContext(config=config, shape=shape, weights=weights, ops=ops, **common))
    embedding = next(iter(w.sources[0] for w in table if w.kind == "embedding"))
    num_params = sum(t.numel() for key, t in state.items() if t.dim() == 2)
    if not config["tie_word_embeddings"]:
        num_params -= state[embedding].numel()
    return BuiltModel(
        name, model, shape, ops, state, config, num_params * bench.dtype.itemsize, num_params
    )


def _make(bench: Bench, name: str, size: tuple[int, ...]) -> torch.Tensor:
    """Ones for norms, small numbers for all else."""
    if len(size) == 1:
        return torch.ones(size, device=bench.device, dtype=bench.dtype)
    generator = torch.Generator(bench.device).manual_seed(zlib.crc32(name.encode()))
    numbers = torch.empty(size, device=bench.device, dtype=bench.dtype)
    return numbers.normal_(0, _SPREAD, generator=generator)
