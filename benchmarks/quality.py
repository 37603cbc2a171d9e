"""What a weight format costs in quality: `python -m benchmarks.quality --config config/llama.yaml`.

Reads a text with each format, and with float32 weights of the same file and a float32 cache, and
compares the distributions of the next token over the whole vocabulary. One JSON line a format:

    kl_mean, kl_max   Kullback-Leibler divergence from float32's distribution, nats a token
    perplexity        of the text; reference_perplexity: float32's
    same_argmax       share of places where both find the same token the most probable
    linear_bytes      of all linear layers as they are kept
    kept              what the kernel made of the format: int4 keeps a file's own blocks

The row of float32 itself says what the config's kernels and cache change. The text is
`prose.txt`, of mixed kinds and written for this, so that no model has seen it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from benchmarks.cost import bind_keep, list_tensors
from benchmarks.machine import read_commit
from llmplug import GenerateRequest, KernelInputError, SamplingParams
from llmplug.assemble import load_registry, plan_model
from llmplug.build import build_engine
from llmplug.config import load
from llmplug.engine.scheduler import Schedule
from llmplug.engine.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Sequence as SequenceOf

    from llmplug.engine.engine import Engine
    from llmplug.engine.runner import StepRunner
    from llmplug.plan import ModelPlan
    from llmplug.registry import Registry

TEXT = Path(__file__).with_name("prose.txt")
FORMATS = ("float32", "int8", "int4")
ROWS = 64  # of logits at a time: 64 x 152k float32 are 39 MB


@dataclass(slots=True)
class Quality:
    """Sums over all places of a text."""

    num_places: int = 0
    kl_sum: float = 0.0
    kl_max: float = 0.0
    nll_sum: float = 0.0
    reference_nll_sum: float = 0.0
    num_same: int = 0

    def add(
        self, reference_RV: torch.Tensor, logits_RV: torch.Tensor, next_R: torch.Tensor
    ) -> None:
        """Compare rows of logits; `next_R` are the tokens of the text that follow."""
        reference_RV = reference_RV.double().log_softmax(-1)
        found_RV = logits_RV.double().log_softmax(-1)
        kl_R = (reference_RV.exp() * (reference_RV - found_RV)).sum(-1)
        self.num_places += len(next_R)
        self.kl_sum += float(kl_R.sum())
        self.kl_max = max(self.kl_max, float(kl_R.max()))
        self.nll_sum -= float(found_RV.gather(1, next_R[:, None]).sum())
        self.reference_nll_sum -= float(reference_RV.gather(1, next_R[:, None]).sum())
        self.num_same += int((found_RV.argmax(-1) == reference_RV.argmax(-1)).sum())

    def as_row(self) -> dict[str, Any]:
        """Return means over the text."""
        count = self.num_places
        return {
            "kl_mean": float(f"{self.kl_sum / count:.3e}"),
            "kl_max": float(f"{self.kl_max:.3e}"),
            "perplexity": round(math.exp(self.nll_sum / count), 4),
            "reference_perplexity": round(math.exp(self.reference_nll_sum / count), 4),
            "same_argmax": round(self.num_same / count, 5),
            "tokens": count,
        }


@dataclass(slots=True)
class Reader:
    """A model that reads windows of a text and says what it expects next."""

    plan: ModelPlan
    runner: StepRunner
    hidden: list[torch.Tensor] = field(default_factory=list)  # hidden_TD of each window

    def read(self, windows: SequenceOf[list[int]]) -> None:
        """Compute the hidden states of all windows, each from an empty cache."""
        settings = self.plan.settings
        pages = array("i", range(settings.num_pages))
        for token_ids in windows:
            request = GenerateRequest(
                request_id="", prompt_ids=token_ids, sampling=SamplingParams()
            )
            sequence = Sequence(request, 0, seed=0, eos_token_ids=frozenset(), arrival=0)
            sequence.pages = pages
            schedule = Schedule()
            schedule.add(sequence, len(token_ids))
            self.hidden.append(self.runner.run(schedule))

    def rate(self, window: int) -> Iterator[torch.Tensor]:
        """Yield logits_RV of a window, but for its last place, ROWS at a time."""
        hidden_TD = self.hidden[window]
        for start in range(0, len(hidden_TD) - 1, ROWS):
            rows = list(range(start, min(start + ROWS, len(hidden_TD) - 1)))
            yield self.runner.compute_logits(hidden_TD, rows)


def make_reader(config: Path, window: int, *sets: str) -> tuple[Reader, Registry]:
    """Plan and build the first model of a config, for one sequence in one step."""
    sizes = {
        "context_length": window,
        "scheduler.max_sequences": 1,
        "scheduler.max_batch_tokens": window,
        "scheduler.prefill_chunk": window,
    }
    all_sets = [*(f"{name}={value}" for name, value in sizes.items()), *sets]
    parsed = load(config, sets=[f"models.0.{value}" for value in all_sets])
    registry = load_registry(parsed)
    plan = plan_model(parsed.models[0], registry, lambda stage, done, total: None)
    engine = cast("Engine", build_engine(plan, registry, lambda stage, done, total: None))
    return Reader(plan, engine._runner), registry


def count_linear(plan: ModelPlan, registry: Registry) -> dict[str, Any]:
    """Return the bytes that all linear weights are kept in, and the formats."""
    keep = bind_keep(plan, registry)
    tensors = [tensor for weight, _, tensor in list_tensors(plan) if weight.kind == "linear"]
    kept = [keep(tensor) for tensor in tensors]
    return {
        "linear_bytes": sum(each.num_bytes for each in kept),
        "kept": sorted({each.format for each in kept}),
    }


def compare(reference: Reader, reader: Reader, windows: SequenceOf[list[int]]) -> Quality:
    """Compare what two readers of the same windows expect."""
    quality = Quality()
    for window, token_ids in enumerate(windows):
        rated = zip(reference.rate(window), reader.rate(window), strict=True)
        for at, (reference_RV, logits_RV) in enumerate(rated):
            next_R = torch.tensor(token_ids[1 + at * ROWS :][: len(logits_RV)])
            quality.add(reference_RV, logits_RV, next_R)
    return quality


def measure_format(
    config: Path, name: str, reference: Reader, windows: SequenceOf[list[int]]
) -> dict[str, Any]:
    """Return one row; only `error` where the kernel does not keep this file's weights so."""
    window = reference.plan.settings.context_length
    try:
        reader, registry = make_reader(config, window, f"weights.format={name}")
    except KernelInputError as error:
        return {"error": str(error)}
    reader.read(windows)
    row = compare(reference, reader, windows).as_row()
    return {"model": reader.plan.name, **row, **count_linear(reader.plan, registry)}


def main(argv: SequenceOf[str] | None = None) -> int:
    """Print one JSON line a format."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--formats", nargs="+", default=FORMATS, help="of weights.format")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--window", type=int, default=1024, help="tokens read at once, each anew")
    args = parser.parse_args(argv)
    size = args.window
    with torch.inference_mode():
        reference, _ = make_reader(
            args.config, size, "weights.format=float32", "cache.dtype=float32"
        )
        token_ids = reference.plan.tokenizer.encode(args.text.read_text())
        windows = [token_ids[at : at + size] for at in range(0, len(token_ids) - 1, size)]
        reference.read(windows)
        for name in args.formats:
            row = measure_format(args.config, name, reference, windows)
            where = {"commit": read_commit(), "text": args.text.name}
            print(json.dumps({"kind": "quality", "format": name, **row, **where}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
