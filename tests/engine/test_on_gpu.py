"""The engine on a GPU: graphs, steps launched ahead, and no wait but for tokens. Needs one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine.fake_model import drain, make_request, output_of
from tiny import make_checkpoint, open_checkpoint

import llmplug_llama
from llmplug import BuildContext, KernelSpec
from llmplug.engine.engine import Engine
from llmplug.engine.graphs import CudaGraphs, GraphRunner, Step, choose_graphs
from llmplug.engine.loading import load_weights
from llmplug.engine.settings import EngineSettings
from llmplug.ops import REFERENCES, choose_kernels, load_kernels
from llmplug_standard import llmplug_samplers

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


class WatchedGraphs:
    """Counts replays."""

    def __init__(self, graphs: GraphRunner) -> None:
        self._graphs = graphs
        self.num_replays = 0

    def capture(self, step: Step, bounds: tuple[int, ...]) -> Step:
        replay = self._graphs.capture(step, bounds)

        def count(cached_lens: tuple[int, ...]) -> torch.Tensor:
            self.num_replays += 1
            return replay(cached_lens)

        return count


def make_engine(folder: Path, device: str, watch: list[WatchedGraphs]) -> Engine:
    checkpoint = open_checkpoint(folder)
    spec = next(s for s in llmplug_llama.llmplug_models() if s.name == "llama")
    shape = spec.describe(checkpoint.config)
    specs: list[tuple[KernelSpec, str]] = []
    if device == "cuda":
        from llmplug_triton import llmplug_kernels

        specs = [(kernel, "llmplug_triton") for kernel in llmplug_kernels()]
    ops = load_kernels(REFERENCES, specs, choose_kernels(REFERENCES, specs, device, "float32"))
    common: dict[str, Any] = {"device": torch.device(device), "dtype": torch.float32}
    weights = load_weights(
        checkpoint, spec.weights(checkpoint.config), spec.ignored, shape.num_layers, ops,
        progress=lambda stage, done, total: None, **common,
    )  # fmt: skip
    model = spec.build(
        BuildContext(config=checkpoint.config, shape=shape, weights=weights, ops=ops, **common)
    )
    graphs: GraphRunner | None = None
    if device == "cuda":
        chosen = choose_graphs(common["device"], ops)
        assert isinstance(chosen, CudaGraphs)
        graphs = WatchedGraphs(chosen)
        watch.append(graphs)
    settings = EngineSettings(
        vocab_size=shape.vocab_size, context_length=shape.context_length, num_pages=400
    )
    samplers = llmplug_samplers()
    return Engine(model, shape, ops, samplers, settings, common["device"], graphs=graphs)


def run_all(engine: Engine, num_requests: int) -> dict[tuple[str, int], list[int]]:
    for number in range(num_requests):
        prompt = [3 + number, *range(4, 9 + number)]
        changes = {"temperature": 0.7, "seed": number} if number % 2 else {}
        request = make_request(str(number), prompt, max_tokens=20 + number, **changes)
        engine.add(request)
    return {key: output_of(deltas) for key, deltas in drain(engine).items()}


def test_a_gpu_gives_the_tokens_of_the_plain_path_on_a_cpu(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path)
    watch: list[WatchedGraphs] = []
    ours, theirs = (make_engine(folder, device, watch) for device in ("cuda", "cpu"))
    assert run_all(ours, 9) == run_all(theirs, 9)
    assert watch[0].num_replays > 10


def test_nothing_of_a_decode_step_waits_for_the_device(tmp_path: Path) -> None:
    """Compiling and capturing may wait; steps that came before may not."""
    watch: list[WatchedGraphs] = []
    engine = make_engine(make_checkpoint("llama", tmp_path), "cuda", watch)
    run_all(engine, 4)
    for number in range(4):
        prompt = [3 + number, *range(4, 9 + number)]
        engine.add(make_request(str(number), prompt, max_tokens=30, ignore_eos=True))
    for _ in range(4):
        engine.step()
    num_replays = watch[0].num_replays
    torch.cuda.set_sync_debug_mode("error")  # but for events, which the fetcher waits for
    try:
        for _ in range(10):
            engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watch[0].num_replays == num_replays + 10
