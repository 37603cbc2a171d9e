"""The engine over tiny random checkpoints: greedy output equals transformers' `generate`.

Alone, in a batch, in chunks of several sizes, under preemption, with aborts, from a warm cache.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine.fake_model import drain, make_request, output_of
from tiny import EOS_ID, load_reference, make_checkpoint, open_checkpoint, reference_logits

import llmplug_llama
import llmplug_qwen3
from llmplug import BuildContext
from llmplug.engine.engine import Engine
from llmplug.engine.loading import load_weights
from llmplug.engine.settings import EngineSettings
from llmplug.ops import REFERENCES, choose_kernels, load_kernels
from llmplug_standard import llmplug_samplers

CPU = torch.device("cpu")
NUM_TOKENS = 20
SPECS = {"llama": llmplug_llama, "qwen3-window": llmplug_qwen3}


@pytest.fixture(scope="module", params=list(SPECS))
def checkpoint(request, tmp_path_factory) -> tuple[Any, Any, Callable[..., Engine]]:
    """(spec, transformers' model, a maker of engines) of one variant."""
    folder = make_checkpoint(request.param, tmp_path_factory.mktemp("checkpoint"))
    opened = open_checkpoint(folder)
    spec = next(s for s in SPECS[request.param].llmplug_models() if s.task == "generate")
    shape = spec.describe(opened.config)
    ops = load_kernels(REFERENCES, [], choose_kernels(REFERENCES, [], "cpu", "float32"))
    weights = load_weights(
        opened,
        spec.weights(opened.config),
        spec.ignored,
        shape.num_layers,
        ops,
        device=CPU,
        dtype=torch.float32,
        progress=lambda stage, done, total: None,
    )
    model = spec.build(
        BuildContext(
            config=opened.config,
            shape=shape,
            weights=weights,
            ops=ops,
            device=CPU,
            dtype=torch.float32,
        )
    )

    def make(**changes: Any) -> Engine:
        settings = EngineSettings(
            **{
                "vocab_size": shape.vocab_size,
                "context_length": shape.context_length,
                "num_pages": 200,
                "page_size": 4,
                "max_batch_tokens": 64,
                "max_sequences": 16,
                "prefill_chunk": 64,
                **changes,
            }
        )
        return Engine(model, shape, ops, llmplug_samplers(), settings, CPU)

    return spec, load_reference(folder), make


def make_prompts(count: int) -> list[list[int]]:
    source = random.Random(count)
    return [[source.randrange(256) for _ in range(source.randint(1, 40))] for _ in range(count)]


@torch.inference_mode()
def reference_output(model: Any, prompt: list[int], eos_id: int | None = None) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NUM_TOKENS,
        do_sample=False,
        eos_token_id=eos_id,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def expected(checkpoint) -> list[tuple[list[int], list[int]]]:
    """(prompt, transformers' output) pairs."""
    return [(prompt, reference_output(checkpoint[1], prompt)) for prompt in make_prompts(16)]


def greedy(name: int, prompt: list[int], **changes: Any) -> Any:
    return make_request(str(name), prompt, max_tokens=NUM_TOKENS, **changes)


def test_alone(checkpoint, expected) -> None:
    for prompt, output in expected[:4]:
        engine = checkpoint[2]()
        engine.add(greedy(0, prompt))
        assert output_of(drain(engine)["0", 0]) == output


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prefill_chunk": 1, "max_batch_tokens": 16},
        {"prefill_chunk": 7, "max_batch_tokens": 31},
        {"num_pages": 24},
        {"page_size": 16, "num_pages": 30, "prefill_chunk": 13},
    ],
    ids=str,
)
def test_in_a_batch(checkpoint, expected, changes) -> None:
    engine = checkpoint[2](**changes)
    for i, (prompt, _) in enumerate(expected):
        engine.add(greedy(i, prompt))
    found = drain(engine)
    for i, (_, output) in enumerate(expected):
        assert output_of(found[str(i), 0]) == output
    assert engine.stats.num_pages_used == 0
    if changes.get("num_pages") == 24:
        assert engine.stats.num_preemptions > 0


def test_while_others_come_and_are_aborted(checkpoint, expected) -> None:
    engine = checkpoint[2](num_pages=60, prefill_chunk=9)
    early: dict[str, list[int]] = {}
    for i, (prompt, _) in enumerate(expected):
        engine.add(greedy(i, prompt))
        for delta in engine.step().deltas:
            early.setdefault(delta.request_id, []).extend(delta.token_ids)
        if i % 3 == 2:
            engine.abort(str(i - 1))
    found = drain(engine)
    for i, (_, output) in enumerate(expected):
        tokens = early.get(str(i), []) + output_of(found.get((str(i), 0), []))
        assert tokens == (output[: len(tokens)] if i % 3 == 1 else output)
    assert engine.stats.num_pages_used == 0


def test_from_a_warm_prefix_cache(checkpoint, expected) -> None:
    engine = checkpoint[2]()
    cached = []
    for turn in range(2):
        for i, (prompt, output) in enumerate(expected):
            engine.add(greedy(i, prompt))
            deltas = drain(engine)[str(i), 0]
            assert output_of(deltas) == output
            if turn:
                cached.append(deltas[0].num_cached_tokens)
    assert cached == [(len(prompt) - 1) // 4 * 4 for prompt, _ in expected]


def test_end_of_sequence(checkpoint, expected) -> None:
    prompt, output = expected[0]
    end = output[NUM_TOKENS // 2]
    engine = checkpoint[2](eos_token_ids=frozenset({end, EOS_ID}))
    engine.add(greedy(0, prompt))
    assert output_of(drain(engine)["0", 0]) == output[: output.index(end) + 1]


def test_log_probabilities(checkpoint, expected) -> None:
    _, model, make = checkpoint
    prompt, output = expected[1]
    engine = make(prefill_chunk=5)
    engine.add(greedy(0, prompt, logprobs=5, prompt_logprobs=3))
    deltas = drain(engine)["0", 0]
    tokens = [*prompt, *output]
    logprobs_TV = reference_logits(model, tokens).log_softmax(-1)
    rated = [*deltas[0].prompt_logprobs[1:], *(lp for d in deltas for lp in d.logprobs)]
    assert len(rated) == len(tokens) - 1
    for i, found in enumerate(rated):
        assert found.token_id == tokens[i + 1]
        assert found.logprob == pytest.approx(float(logprobs_TV[i, tokens[i + 1]]), abs=2e-4)
        best = logprobs_TV[i].topk(len(found.top))
        assert [token_id for token_id, _ in found.top] == best.indices.tolist()


def test_a_seeded_request_gives_the_same_alone_and_in_a_batch(checkpoint) -> None:
    prompts = make_prompts(8)
    fields = {"temperature": 0.9, "top_p": 0.95, "top_k": 50}
    alone = []
    for i, prompt in enumerate(prompts):
        engine = checkpoint[2]()
        engine.add(greedy(i, prompt, seed=i, **fields))
        alone.append(output_of(drain(engine)[str(i), 0]))
    engine = checkpoint[2](prefill_chunk=11, num_pages=40)
    for i, prompt in enumerate(prompts):
        engine.add(greedy(i, prompt, seed=i, **fields))
    found = drain(engine)
    assert [output_of(found[str(i), 0]) for i in range(8)] == alone
