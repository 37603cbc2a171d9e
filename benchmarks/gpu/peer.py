"""Rows of transformers' continuous batching, on the same weights in the same run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from benchmarks.gpu.device import Bench
    from benchmarks.gpu.models import BuiltModel


def build_peer(bench: Bench, built: BuiltModel) -> Any:
    """Make transformers' model of the same config; its tensors are the very same."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**built.config)
    with torch.device("meta"):
        make: Any = AutoModelForCausalLM.from_config  # untyped
        model = make(config, dtype=bench.dtype)
    missing, unexpected = model.load_state_dict(dict(built.state), strict=False, assign=True)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"other weights than transformers': {missing} {unexpected}")
    model.tie_weights()
    # Buffers of positions were not on any device.
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(bench.device)
    return model.eval()


def measure_peer(
    bench: Bench, built: BuiltModel, prompts: list[list[int]], num_outputs: int
) -> dict[str, Any]:
    """Time `generate_batch` on all prompts at once, after a first time for a few tokens."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = build_peer(bench, built)
    describe: Any = GenerationConfig  # untyped
    # By itself it takes what memory the device has.
    sizes = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=256) if bench.is_tiny else None
    seconds = 0.0
    outputs: dict[str, Any] = {}
    for count in (2, num_outputs):
        settings = describe(max_new_tokens=count, do_sample=False, eos_token_id=-1)
        start = time.perf_counter()
        outputs = model.generate_batch(
            inputs=prompts, generation_config=settings, continuous_batching_config=sizes
        )
        bench.clock.wait()
        seconds = time.perf_counter() - start
    if any(len(output.generated_tokens) != num_outputs for output in outputs.values()) or len(
        outputs
    ) != len(prompts):
        raise RuntimeError("transformers did not answer all prompts in full")
    num_tokens = sum(len(output.generated_tokens) for output in outputs.values())
    return {"seconds": seconds, "output_tokens": num_tokens, "tokens_s": num_tokens / seconds}
