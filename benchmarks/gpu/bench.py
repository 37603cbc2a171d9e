"""Measure kernels, the engine and transformers on one GPU: `make bench-gpu`.

    python -m benchmarks.gpu.bench [--models qwen3-0.6b ...] [--only decode] [--results FOLDER]

One JSON line a row into a file named by device and commit; rows that it has are skipped, so a run
that was stopped goes on. Without a GPU: one line, and status 2.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.device import open_bench
from benchmarks.gpu.engine import make_prompts, measure_decode, measure_prefill, measure_workload
from benchmarks.gpu.kernels import list_kernel_rows
from benchmarks.gpu.models import CONFIGS, build_model
from benchmarks.gpu.peer import measure_peer
from benchmarks.gpu.rows import Row, name_file, run_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.gpu.device import Bench, Ceilings
    from benchmarks.gpu.models import BuiltModel


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What the engine's rows ask of a model; counts of tokens, but for `batches` and `steps`."""

    batches: tuple[int, ...] = (1, 32, 256)
    context: int = 1024
    steps: int = 64
    prefills: tuple[int, ...] = (1024, 8192, 32768)
    count: int = 128  # of prompts
    length: int = 1024
    outputs: int = 1024


_SIZES = _Sizes()
_TINY = _Sizes((1, 3), context=20, steps=4, prefills=(40,), count=3, length=24, outputs=6)
_RESULTS = Path(__file__).parent.parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all rows that are asked for; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes: tries the program")
    parser.add_argument("--models", nargs="*", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    options = parser.parse_args(arguments)
    bench = open_bench(options.device, is_tiny=options.tiny)
    about, ceilings = bench.describe(), bench.probe()
    about |= {"copy_gbytes_s": ceilings.copy_bytes_s / 1e9,
              "product_tflops": ceilings.product_flops / 1e12}  # fmt: skip
    path = name_file(options.results, about["device"])
    num_failed = 0
    groups = [partial(list_kernel_rows, bench, ceilings)]
    groups += [partial(_list_model_rows, bench, ceilings, n) for n in options.models]
    for list_rows in groups:  # one model at a time is in memory
        rows = [row for row in list_rows() if options.only in row.name]
        num_failed += run_rows(path, rows, about)
    return 1 if num_failed else 0


def _list_model_rows(bench: Bench, ceilings: Ceilings, name: str) -> list[Row]:
    @functools.cache
    def built() -> BuiltModel:  # by the first row that runs
        return build_model(bench, name)

    sizes = _TINY if bench.is_tiny else _SIZES

    def on_model(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        return measure(bench, built(), *arguments)

    def on_prompts(measure: Callable[..., dict[str, Any]], shared: int, *more: Any) -> Any:
        prompts = make_prompts(built(), sizes.count, sizes.length, shared)
        return measure(bench, built(), *more, prompts, sizes.outputs)

    rows = [
        Row(
            f"{name} decode B={batch} context={sizes.context}",
            partial(on_model, measure_decode, ceilings, batch, sizes.context, sizes.steps),
        )
        for batch in sizes.batches
    ]
    rows += [
        Row(f"{name} prefill {length}", partial(on_model, measure_prefill, ceilings, length))
        for length in sizes.prefills
        if length < CONFIGS[name]["max_position_embeddings"]
    ]
    for kind, shared in (("random", 0), ("shared-75", sizes.length * 3 // 4)):
        row = f"{name} {kind} {sizes.count}x{sizes.length}/{sizes.outputs}"
        rows.append(Row(row, partial(on_prompts, measure_workload, shared, ceilings)))
        rows.append(Row(f"{row} transformers", partial(on_prompts, measure_peer, shared)))
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
