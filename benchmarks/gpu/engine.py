"""Rows of the engine: decode, prefill, whole workloads; beside each what the device allows."""

from __future__ import annotations

import random
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from llmplug import GenerateRequest, SamplingParams
from llmplug.engine.engine import Engine
from llmplug.engine.graphs import choose_graphs
from llmplug.engine.settings import EngineSettings
from llmplug_standard import llmplug_samplers

if TYPE_CHECKING:
    from benchmarks.gpu.device import Bench, Ceilings
    from benchmarks.gpu.models import BuiltModel

Prompts = list[list[int]]
_PAGE_SIZE = 16
_WARM_STEPS = 8  # the first of a size are captured


def make_prompts(built: BuiltModel, count: int, length: int, num_shared: int = 0) -> Prompts:
    """Make random prompts that begin with the same `num_shared` tokens."""
    source, size = random.Random(0), built.shape.vocab_size
    shared = [source.randrange(size) for _ in range(num_shared)]
    return [
        shared + [source.randrange(size) for _ in range(length - num_shared)] for _ in range(count)
    ]


def make_engine(bench: Bench, built: BuiltModel, num_sequences: int, num_tokens: int) -> Engine:
    """Build an engine with room for so many sequences of so many tokens each."""
    pages_each = -(-num_tokens // _PAGE_SIZE) + 1
    settings = EngineSettings(
        vocab_size=built.shape.vocab_size,
        context_length=built.shape.context_length,
        num_pages=pages_each * num_sequences,
        page_size=_PAGE_SIZE,
        max_batch_tokens=max(32 if bench.is_tiny else 8192, num_sequences),
        max_sequences=num_sequences,
        prefill_chunk=32 if bench.is_tiny else 8192,
        cache_dtype=str(bench.dtype).removeprefix("torch."),
    )
    graphs = choose_graphs(bench.device, built.ops) if bench.device.type == "cuda" else None
    return Engine(
        built.model, built.shape, built.ops, llmplug_samplers(), settings, bench.device,
        graphs=graphs,
    )  # fmt: skip


def add_prompts(engine: Engine, prompts: Prompts, num_outputs: int) -> None:
    """Ask for greedy answers of exactly so many tokens."""
    sampling = SamplingParams(temperature=0.0, max_tokens=num_outputs, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.add(GenerateRequest(request_id=str(number), prompt_ids=prompt, sampling=sampling))


@torch.inference_mode()
def run_to_the_end(bench: Bench, engine: Engine) -> float:
    """Return the seconds until nothing is left to do."""
    start = time.perf_counter()
    while engine.has_work:
        engine.step()
    bench.clock.wait()
    return time.perf_counter() - start


@torch.inference_mode()
def measure_decode(
    bench: Bench, built: BuiltModel, ceilings: Ceilings, batch: int, context: int, num_steps: int
) -> dict[str, Any]:
    """Time steps in which every sequence takes one token."""
    num_outputs = _WARM_STEPS + num_steps + 4
    engine = make_engine(bench, built, batch, context + num_outputs)
    add_prompts(engine, make_prompts(built, batch, context), num_outputs)
    while engine.stats.num_prompt_tokens < batch * context or engine.stats.num_waiting:
        engine.step()
    for _ in range(_WARM_STEPS):
        engine.step()
    seconds = []
    for _ in range(num_steps):
        start = time.perf_counter()
        engine.step()  # waits for tokens of the step before, so the mean is the device's
        seconds.append(time.perf_counter() - start)
    step_s = statistics.fmean(seconds)
    itemsize = bench.dtype.itemsize
    cached = batch * (context + _WARM_STEPS + num_steps / 2)
    least_s = ceilings.least_s(
        built.weight_bytes + cached * built.kv_bytes(itemsize), 2 * built.num_params * batch
    )
    return {"step_ms": step_s * 1e3, "tokens_s": batch / step_s, "least_ms": least_s * 1e3,
            "of_limit": least_s / step_s}  # fmt: skip


def measure_prefill(
    bench: Bench, built: BuiltModel, ceilings: Ceilings, length: int
) -> dict[str, Any]:
    """Time one prompt until its first token; the second of two, as the first compiles."""
    engine = make_engine(bench, built, 1, 2 * length + 2)
    seconds = []
    for prompt in make_prompts(built, 2, length):
        add_prompts(engine, [prompt], 1)
        seconds.append(run_to_the_end(bench, engine))
    flops = 2 * built.num_params * length + _count_attention(built, length)
    least_s = ceilings.least_s(built.weight_bytes, flops)
    return {"seconds": seconds[-1], "tokens_s": length / seconds[-1],
            "of_limit": least_s / seconds[-1]}  # fmt: skip


def measure_workload(
    bench: Bench, built: BuiltModel, ceilings: Ceilings, prompts: Prompts, num_outputs: int
) -> dict[str, Any]:
    """Time whole answers to all prompts at once; compiling is done on others before."""
    longest = max(map(len, prompts)) + num_outputs
    engine = make_engine(bench, built, len(prompts), longest)
    warm = [[(token + 1) % built.shape.vocab_size for token in prompt] for prompt in prompts]
    add_prompts(engine, warm, min(num_outputs, 2 * _WARM_STEPS))
    run_to_the_end(bench, engine)
    before = engine.stats
    add_prompts(engine, prompts, num_outputs)
    seconds = run_to_the_end(bench, engine)
    num_tokens = engine.stats.num_generated_tokens - before.num_generated_tokens
    cached = engine.stats.num_cached_tokens - before.num_cached_tokens
    kv_bytes = built.kv_bytes(bench.dtype.itemsize)
    read = len(prompts) * num_outputs * (longest - num_outputs / 2) * kv_bytes
    flops = 2 * built.num_params * (num_tokens + sum(map(len, prompts)) - cached)
    least_s = ceilings.least_s(num_outputs * built.weight_bytes + read, flops)
    return {"seconds": seconds, "output_tokens": num_tokens, "cached_tokens": cached,
            "tokens_s": num_tokens / seconds, "of_limit": least_s / seconds}  # fmt: skip


def _count_attention(built: BuiltModel, length: int) -> float:
    """Operations of causal attention over a prompt: two products of half a square a head."""
    heads = int(built.config["num_attention_heads"])
    return sum(2.0 * length**2 * heads * cache.head_width for cache in built.shape.layers)
