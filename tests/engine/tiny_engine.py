"""An engine over a tiny random checkpoint, and transformers' model of the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tiny import load_reference, make_checkpoint, open_checkpoint

import llmplug_dry
import llmplug_dynamic_temperature
import llmplug_llama
import llmplug_mirostat
import llmplug_standard
import llmplug_top_n_sigma
import llmplug_typical_p
import llmplug_xtc
from llmplug import BuildContext
from llmplug.engine.engine import Engine
from llmplug.engine.graphs import GraphRunner
from llmplug.engine.loading import load_weights
from llmplug.engine.settings import EngineSettings
from llmplug.grammar import Vocabulary
from llmplug.ops import REFERENCES, choose_kernels, load_kernels

CPU = torch.device("cpu")
PLUGINS = (
    llmplug_standard, llmplug_dry, llmplug_dynamic_temperature, llmplug_mirostat,
    llmplug_top_n_sigma, llmplug_typical_p, llmplug_xtc,
)  # fmt: skip
SAMPLERS = [spec for plugin in PLUGINS for spec in plugin.llmplug_samplers()]


class TinyModel:
    """A Llama of two layers: its files, transformers' model, and engines over it."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_checkpoint("llama", folder)
        self.reference = load_reference(self.folder)
        checkpoint = open_checkpoint(self.folder)
        spec = next(s for s in llmplug_llama.llmplug_models() if s.name == "llama")
        self._shape = spec.describe(checkpoint.config)
        self._ops = load_kernels(REFERENCES, [], choose_kernels(REFERENCES, [], "cpu", "float32"))
        weights = load_weights(
            checkpoint, spec.weights(checkpoint.config), spec.ignored, self._shape.num_layers,
            self._ops, device=CPU, dtype=torch.float32, progress=lambda stage, done, total: None,
        )  # fmt: skip
        self._model = spec.build(
            BuildContext(
                config=checkpoint.config, shape=self._shape, weights=weights, ops=self._ops,
                device=CPU, dtype=torch.float32,
            )
        )  # fmt: skip

    def make_engine(
        self,
        read_vocabulary: Callable[[], Vocabulary] | None = None,
        graphs: GraphRunner | None = None,
        **changes: Any,
    ) -> Engine:
        settings = {
            "vocab_size": self._shape.vocab_size,
            "context_length": self._shape.context_length,
            "num_pages": 200,
            "page_size": 4,
            "max_batch_tokens": 64,
            "max_sequences": 16,
            "prefill_chunk": 64,
            **changes,
        }
        return Engine(
            self._model, self._shape, self._ops, SAMPLERS, EngineSettings(**settings), CPU,
            read_vocabulary=read_vocabulary, graphs=graphs,
        )  # fmt: skip

    @torch.inference_mode()
    def reference_logprobs(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Return logprobs_TV: row t is of the token that follows the first t + 1."""
        logits_TV = self.reference(torch.tensor([list(token_ids)])).logits[0]
        return logits_TV.double().log_softmax(-1)
