"""Compare every Triton kernel, and greedy answers, with torch's own on a device: `make test-gpu`.

    python -m benchmarks.gpu.check [--device cpu] [--seed N] [--model FILE]

Needs no pytest. Fresh memory is NaN, and NaN never passes; every argument of every op's examples is
drawn anew in each run, beside those that the tests have, and one row of each is an attacker's, whom
the others must not notice. Without a GPU: one line, and status 2.
"""

from __future__ import annotations

import argparse
import importlib.util
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.device import Bench, open_bench
from benchmarks.gpu.fresh import shifted_seeds
from benchmarks.gpu.greedy import SMOLLM2, find_other_tokens, find_other_tokens_of_file
from benchmarks.gpu.races import find_races
from llmplug.ops import REFERENCES, KernelTable, LoadedTensor, Op
from llmplug.ops.attacker_rows import count_rows, find_other_outputs, with_attacker
from llmplug.ops.attention_examples import apply_attention
from llmplug.ops.decoder_layer_examples import apply_decoder_layer
from llmplug.ops.linear import apply_linear
from llmplug.ops.rope_store import apply_rope_store
from llmplug.ops.table import make_reference_table
from llmplug.testing.kernels import list_examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from llmplug import KernelSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_APPLY: dict[str, Callable[..., Any]] = {
    "attention": apply_attention,
    "linear": apply_linear,
    "decoder_layer": apply_decoder_layer,
    "rope_store": apply_rope_store,
}


def find_unpoisoned(device: torch.device) -> Iterator[str]:
    """Yield what fresh memory holds if it is not NaN: what is never written would not show."""
    for dtype in DTYPES.values():
        if not torch.empty(1000, device=device, dtype=dtype).isnan().all():
            yield f"fresh memory of {dtype} on {device} is not filled with NaN"


def find_unlike(spec: KernelSpec, device: torch.device, dtype: str, seed: int) -> Iterator[str]:
    """Yield what differs from the reference, over the op's examples as tests have them and anew."""
    op = REFERENCES[spec.op]
    kernel, reference = _load(spec)
    rtol, atol = op.tolerances[dtype]
    for shift in (0, seed):
        with shifted_seeds(shift):
            for number, example in enumerate(list_examples(spec, device.type, dtype)):
                for got, expected in _compare(op, kernel, reference, example):
                    try:
                        torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
                    except AssertionError as error:
                        message = str(error).replace("\n", " ")
                        yield f"{op.name} {dtype}, example {number}, seed {shift}: {message}"


def find_leaks(spec: KernelSpec, device: torch.device, dtype: str, seed: int) -> Iterator[str]:
    """Yield examples in which an attacker's row changes a bit of another."""
    op = REFERENCES[spec.op]
    kernel, _ = _load(spec)
    with shifted_seeds(seed):
        for number, example in enumerate(list_examples(spec, device.type, dtype)):
            num_rows = count_rows(example)
            for row in (0, num_rows - 1) if num_rows > 1 else ():
                before, after = (
                    _call(op, kernel, each) for each in (example, with_attacker(example, row))
                )
                is_other = find_other_outputs(example, row, len(before)).to(device)
                if not torch.equal(before[is_other], after[is_other]):
                    yield f"{op.name} {dtype}, example {number}, seed {seed}: row {row} is noticed"


def find_wrong_products(device: torch.device) -> Iterator[str]:
    """Yield formats whose products are not those of the weight that they hold, in float64."""
    from llmplug_triton.linear import Linear

    linear, dtype = Linear(), torch.float32
    for name in ("int8", "int4", "fp8"):
        for outputs, inputs in ((1, 1), (70, 100), (129, 257)):
            source = LoadedTensor(torch.randn(outputs, inputs))
            packed = linear.pack([source], None, device=device, dtype=dtype, format=name)
            weight_IO = linear(torch.eye(inputs, device=device), packed).double()
            for num_tokens in (1, 16, 17):  # both heights of tiles
                x_TI = torch.randn(num_tokens, inputs, device=device)
                got, expected = linear(x_TI, packed).double(), x_TI.double() @ weight_IO
                if not torch.allclose(got, expected, rtol=1e-4, atol=1e-3):
                    yield f"linear {name} {outputs}x{inputs} T={num_tokens}"


def _load(spec: KernelSpec) -> tuple[Any, Any]:
    """Load a kernel and its reference; a composed op's are tables, parts and all."""
    table = make_reference_table(REFERENCES)
    if REFERENCES[spec.op].compose is not None:
        return _take_parts(spec, spec.load(), table), table
    return spec.load(), getattr(table, spec.op)


def _take_parts(spec: KernelSpec, kernel: object, references: KernelTable) -> KernelTable:
    """References, but for a fused kernel and the kernels that it builds on."""
    from llmplug_triton import llmplug_kernels

    parts = {each.op: each.load() for each in llmplug_kernels() if each.op in spec.needs}
    return KernelTable(
        {**{op: getattr(references, op) for op in REFERENCES}, **parts, spec.op: kernel}
    )


def _compare(
    op: Op, kernel: Any, reference: Any, example: Mapping[str, Any]
) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
    if op.compare is not None:
        return op.compare(kernel, reference, example)
    outputs = (each(**_copy(example)) for each in (kernel, reference))
    got, expected = (x if isinstance(x, tuple) else (x,) for x in outputs)
    return list(zip(got, expected, strict=True))


def _call(op: Op, kernel: Any, example: Mapping[str, Any]) -> torch.Tensor:
    """Return the first output, whose rows are those of the example."""
    apply = _APPLY.get(op.name)
    output = kernel(**_copy(example)) if apply is None else apply(kernel, example)
    first: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return first


def _copy(example: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in example.items()}


def _find_other_answers(bench: Bench, path: Path) -> Iterator[str]:
    if importlib.util.find_spec("transformers") is None:
        print("transformers is not installed: greedy answers are not compared", file=sys.stderr)
        return
    yield from find_other_tokens(bench)
    if not path.is_file():
        print(f"{path} is not there: SmolLM2's answers are not compared", file=sys.stderr)
        return
    yield from find_other_tokens_of_file(bench, path)


def _find_all(bench: Bench, specs: Sequence[KernelSpec], seed: int) -> Iterator[str]:
    yield from find_unpoisoned(bench.device)
    # Triton's interpreter cuts off what does not fit bfloat16, where GPUs round.
    dtypes = [name for name in DTYPES if bench.device.type != "cpu" or name != "bfloat16"]
    for spec in specs:
        for dtype in dtypes:
            yield from find_unlike(spec, bench.device, dtype, seed)
            yield from find_leaks(spec, bench.device, dtype, seed)
        if spec.op == "attention":
            yield from find_races(spec, bench, 2 if bench.device.type == "cpu" else 500)
    if any(spec.op == "linear" for spec in specs):
        yield from find_wrong_products(bench.device)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what differs; return 1 if anything does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--ops", nargs="*", help="only these; none: only greedy answers")
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(1 << 30), help="of new inputs"
    )
    parser.add_argument("--model", type=Path, default=SMOLLM2, help="a Llama's GGUF file")
    options = parser.parse_args(arguments)
    bench = open_bench(options.device, is_tiny=True)
    from llmplug_triton import llmplug_kernels

    specs = [s for s in llmplug_kernels() if options.ops is None or s.op in options.ops]
    print(f"new inputs are drawn with --seed {options.seed}")
    num_unlike = 0
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills fresh memory with NaN
    for line in _find_all(bench, specs, options.seed):
        num_unlike += 1
        print(line, flush=True)
    torch.use_deterministic_algorithms(False)
    for line in _find_other_answers(bench, options.model.expanduser()):
        num_unlike += 1
        print(line, flush=True)
    print(f"{len(specs)} kernels tried, {num_unlike} differences")
    return 1 if num_unlike else 0


if __name__ == "__main__":
    raise SystemExit(main())
