"""A published model, in every weight format: a prompt's answer is the same alone and among 32.

Not a bound but equality, to the bit: every kernel computes a row in an order of its own, whatever
the others hold, and chunks of prompts may be cut anywhere.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from engine.fake_model import drain, make_request, output_of

from llmplug import assemble
from llmplug.build import build_engine
from llmplug.config import parse
from llmplug.engine.engine import Engine
from llmplug_cpu.build import find_reason_against

REASON = find_reason_against()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

NUM_PROMPTS = 32
NUM_TOKENS = 16
CONFIG = """
models:
  - source: {source}
    device: cpu
    context_length: 256
    weights: {{format: {format}}}
    cache: {{memory: 512MiB, share_prefixes: false}}
    scheduler: {{max_sequences: 32, max_batch_tokens: 100, prefill_chunk: 48}}
"""


def make_engine(source: Path, weight_format: str) -> Engine:
    config = parse(CONFIG.format(source=source, format=weight_format))
    registry = assemble.load_registry(config)

    def ignore(stage: str, done: int, total: int) -> None:
        """Tests draw no bars."""

    return build_engine(assemble.plan_model(config.models[0], registry, ignore), registry, ignore)


def run(engine: Engine, prompts: dict[str, list[int]]) -> dict[str, list[int]]:
    """Decode greedily, all in one batch."""
    for name, prompt in prompts.items():
        engine.add(make_request(name, prompt, max_tokens=NUM_TOKENS, ignore_eos=True))
    found = drain(engine)
    return {name: output_of(found[name, 0]) for name in prompts}


@pytest.mark.parametrize("weight_format", ["float32", "bfloat16", "int8", "int4", "w4a8"])
def test_alone_equals_in_a_batch_of_32(smollm2_gguf: Path, weight_format: str) -> None:
    numbers = random.Random(weight_format)
    prompts = {
        str(i): [numbers.randint(1_000, 31_999) for _ in range(numbers.randint(1, 90))]
        for i in range(NUM_PROMPTS)
    }
    engine = make_engine(smollm2_gguf, weight_format)
    together = run(engine, prompts)
    assert all(len(output) == NUM_TOKENS for output in together.values())
    assert len(set(map(tuple, together.values()))) > NUM_PROMPTS // 2  # they are no constant
    for name, prompt in prompts.items():
        assert run(engine, {name: prompt})[name] == together[name], name
