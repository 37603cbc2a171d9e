"""What sampling costs: `python -m benchmarks.samplers` prints a JSON line for each request.

Milliseconds for a batch of 1, 8 and 32 rows, the best of all tries within TRY_S.
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch

import llmplug_standard
from llmplug import SamplerRow
from llmplug.ops import REFERENCES
from llmplug.ops.table import make_reference_table

VOCAB_SIZE = 49_152
BATCHES = (1, 8, 32)
TRY_S = 0.3
REQUESTS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {},
    {"top_k": 50},
    {"top_p": 0.9},
    {"min_p": 0.05},
    {"temperature": 0.7, "top_k": 50, "top_p": 0.9},
    {"repetition_penalty": 1.1},
)
Chain = list[tuple[Any, list[SamplerRow]]]


def make_logits(is_peaked: bool) -> torch.Tensor:
    """Make logits_RV, flat or like a model's: 90 % of the probability in some hundred tokens."""
    noise = torch.randn(max(BATCHES), VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    logits_RV = noise * 3
    if is_peaked:
        logits_RV[:, :: VOCAB_SIZE // 64] += 10
    return logits_RV


def make_chain(fields: dict[str, Any]) -> Chain:
    """Make the samplers that a request with these fields needs, and the rows for each."""
    chain: Chain = []
    seen = range(0, 900, 3)
    ops = make_reference_table(REFERENCES)
    for spec in llmplug_standard.llmplug_samplers():
        known = {name: fields[name] for name in fields if name in spec.params.model_fields}
        params = spec.params(**known)
        if spec.is_active(params):
            rows = [SamplerRow(params, seen, seen, seed, 600) for seed in range(max(BATCHES))]
            chain.append((spec.make(VOCAB_SIZE, torch.device("cpu"), ops), rows))
    return chain


def time_chain(chain: Chain, logits_RV: torch.Tensor) -> float:
    """Return the milliseconds that a batch takes; the copy that is edited does not count."""
    best_s, deadline = float("inf"), time.perf_counter() + TRY_S
    while time.perf_counter() < deadline:
        edited = logits_RV.clone()
        started = time.perf_counter()
        for sampler, rows in chain[:-1]:
            sampler.apply(edited, rows[: len(edited)])
        chain[-1][0].choose(edited, chain[-1][1][: len(edited)]).tolist()
        best_s = min(best_s, time.perf_counter() - started)
    return round(best_s * 1e3, 3)


if __name__ == "__main__":
    for kind in ("peaked", "flat"):
        logits = make_logits(kind == "peaked")
        for request in REQUESTS:
            samplers = make_chain(request)
            times = {str(size): time_chain(samplers, logits[:size]) for size in BATCHES}
            print(json.dumps({"logits": kind, "request": request, "ms": times}), flush=True)
