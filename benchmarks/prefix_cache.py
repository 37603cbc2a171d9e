"""What looking for shared prefixes costs where there are none: `python -m benchmarks.prefix_cache`.

One engine, without HTTP, whose cache is small and full of known prefixes, as after hours of work:
a page that is handed out forgets what it held. Runs with and without sharing alternate; the fastest
of each are compared, as another process on the machine only ever slows a run down.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from benchmarks.machine import describe_machine
from benchmarks.workload import Workload, make_prompts
from llmplug import GenerateRequest, SamplingParams
from llmplug.assemble import load_registry, plan_model
from llmplug.build import build_engine
from llmplug.config import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.engine.engine import Engine

WORKLOAD = Workload("prefix-cost", 512, 16)
NUM_PROMPTS = 4  # of a run
CACHE = "256MiB"


def make_engine(config: Path) -> Engine:
    """Build the engine of a config's first model, with a small cache."""
    parsed = load(config, sets=[f"models.0.cache.memory={CACHE}"])
    registry = load_registry(parsed)
    plan = plan_model(parsed.models[0], registry, lambda stage, done, total: None)
    return cast("Engine", build_engine(plan, registry, lambda stage, done, total: None))


def time_run(engine: Engine, seed: int, *, is_sharing: bool) -> float:
    """Answer prompts that share nothing; return the seconds."""
    scheduler = engine._scheduler
    scheduler._settings = replace(scheduler._settings, is_prefix_cached=is_sharing)
    sampling = SamplingParams(temperature=0.0, max_tokens=WORKLOAD.output_tokens, ignore_eos=True)
    for i, prompt in enumerate(make_prompts(WORKLOAD, NUM_PROMPTS, seed=seed)):
        engine.add(GenerateRequest(request_id=str(i), prompt_ids=prompt, sampling=sampling))
    started = time.perf_counter()
    while engine.has_work:
        engine.step()
    return time.perf_counter() - started


def main(argv: Sequence[str] | None = None) -> int:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prefix_cache", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=20)
    args = parser.parse_args(argv)
    engine = make_engine(args.config)
    fill = 2 * engine.settings.num_pages * engine.settings.page_size
    num_fills = -(-fill // (NUM_PROMPTS * WORKLOAD.prompt_tokens))
    for seed in range(num_fills):
        time_run(engine, seed, is_sharing=True)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(args.pairs):
        for is_sharing in (True, False) if pair % 2 else (False, True):
            seed = num_fills + 2 * pair + is_sharing
            seconds[is_sharing].append(time_run(engine, seed, is_sharing=is_sharing))
    names = {True: "sharing", False: "not_sharing"}
    row = {
        f"{names[key]}_s": {
            "min": round(min(taken), 4),
            "median": round(statistics.median(taken), 4),
        }
        for key, taken in seconds.items()
    }
    loss = 1 - min(seconds[False]) / min(seconds[True])
    print(json.dumps({
        "kind": "prefix_cost", **row, "loss": round(loss, 5), "pairs": args.pairs,
        "machine": describe_machine(),
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
