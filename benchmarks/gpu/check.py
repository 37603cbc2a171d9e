"""Compare every Triton kernel, and greedy answers, with torch's own on a device: `make test-gpu`.

    python -m benchmarks.gpu.check [--device cpu]

Needs no pytest. Fresh memory is NaN, inputs are drawn anew for every call beside the op's own odd
examples, and NaN never passes. Without a GPU: one line, and status 2.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.device import Bench, open_bench
from benchmarks.gpu.engine import add_prompts, make_engine, make_prompts
from benchmarks.gpu.models import build_model
from benchmarks.gpu.peer import build_peer
from llmplug.ops import REFERENCES, KernelTable, LoadedTensor, Op
from llmplug.ops.attention_examples import apply_attention
from llmplug.ops.table import make_reference_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmplug import KernelSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NUM_GREEDY = 24  # tokens of each answer
# How far two logits may be apart for either to be the greatest: float32 sums in another order.
_TIE = 1e-3


def find_unlike(spec: KernelSpec, device: torch.device, dtype: str) -> Iterator[str]:
    """Yield what differs from the reference, over the op's examples and fresh inputs."""
    op = REFERENCES[spec.op]
    table = make_reference_table(REFERENCES)
    kernel, reference = spec.load(), getattr(table, op.name)
    if op.compose is not None:  # it is compared with what it is composed of, parts and all
        kernel, reference = _take_parts(spec, kernel, table), table
    rtol, atol = op.tolerances[dtype]
    for number, example in enumerate(op.example_inputs(device, DTYPES[dtype])):
        for attempt, inputs in enumerate((example, _draw_anew(example))):
            for got, expected in _compare(op, kernel, reference, inputs):
                try:
                    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
                except AssertionError as error:
                    message = str(error).replace("\n", " ")
                    yield f"{op.name} {dtype}, example {number}.{attempt}: {message}"


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


def _take_parts(spec: KernelSpec, kernel: object, references: KernelTable) -> KernelTable:
    """References, but for a fused kernel and the kernels that it builds on."""
    from llmplug_triton import llmplug_kernels

    parts = {each.op: each.load() for each in llmplug_kernels() if each.op in spec.needs}
    return KernelTable(
        {**{op: getattr(references, op) for op in REFERENCES}, **parts, spec.op: kernel}
    )


def _compare(
    op: Op, kernel: Any, reference: Any, inputs: Mapping[str, Any]
) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
    if op.compare is not None:
        return op.compare(kernel, reference, inputs)
    if op.name == "attention":
        outputs = (apply_attention(each, inputs) for each in (kernel, reference))
    else:
        outputs = (each(**_copy(inputs)) for each in (kernel, reference))
    got, expected = (x if isinstance(x, tuple) else (x,) for x in outputs)
    return list(zip(got, expected, strict=True))


def _copy(example: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in example.items()}


def _draw_anew(example: Mapping[str, Any]) -> dict[str, Any]:
    """Other numbers of the same size, in the packed tokens alone: other inputs have meanings."""
    drawn = _copy(example)
    for name, value in drawn.items():
        if name in {"x_TD", "x_TI"} and isinstance(value, torch.Tensor) and value.numel():
            drawn[name] = torch.randn_like(value) * value.float().std(correction=0).to(value.dtype)
    return drawn


def find_other_tokens(bench: Bench) -> Iterator[str]:
    """Yield where greedy answers of a tiny model leave transformers' path, but for ties."""
    built = build_model(replace(bench, dtype=torch.float32, is_tiny=True), "qwen3-0.6b")
    bench = replace(bench, dtype=torch.float32, is_tiny=True)
    prompts = [*make_prompts(built, 3, 17), *make_prompts(built, 2, 90, num_shared=40)]
    engine = make_engine(bench, built, len(prompts), 90 + _NUM_GREEDY)
    add_prompts(engine, prompts, _NUM_GREEDY)
    answers: dict[int, list[int]] = {number: [] for number in range(len(prompts))}
    with torch.inference_mode():
        while engine.has_work:
            for delta in engine.step().deltas:
                answers[int(delta.request_id)] += delta.token_ids
        peer = build_peer(bench, built)
        for number, prompt in enumerate(prompts):
            ids = torch.tensor([prompt + answers[number]], device=bench.device)
            logits_TV = peer(ids).logits[0, len(prompt) - 1 : -1]
            chosen_T = logits_TV.gather(1, ids[0, len(prompt) :, None])[:, 0]
            behind_T = logits_TV.amax(1) - chosen_T
            if len(answers[number]) != _NUM_GREEDY or not bool((behind_T <= _TIE).all()):
                yield f"greedy answer {number} of {len(prompt)} tokens is not transformers'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what differs; return 1 if anything does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--ops", nargs="*", help="only these; none: only greedy answers")
    options = parser.parse_args(arguments)
    bench = open_bench(options.device, is_tiny=True)
    from llmplug_triton import llmplug_kernels

    torch.use_deterministic_algorithms(True, warn_only=True)  # fills fresh memory with NaN
    num_unlike = num_tried = 0
    for spec in llmplug_kernels():
        if options.ops is not None and spec.op not in options.ops:
            continue
        for dtype in DTYPES:
            num_tried += 1
            for line in find_unlike(spec, bench.device, dtype):
                num_unlike += 1
                print(line, flush=True)
    if options.ops is None or "linear" in options.ops:
        for line in find_wrong_products(bench.device):
            num_unlike += 1
            print(line, flush=True)
    torch.use_deterministic_algorithms(False)
    if importlib.util.find_spec("transformers") is None:
        print("transformers is not installed: greedy answers are not compared", file=sys.stderr)
    else:
        for line in find_other_tokens(bench):
            num_unlike += 1
            print(line, flush=True)
    print(f"{num_tried} kernels and dtypes tried, {num_unlike} differences")
    return 1 if num_unlike else 0


if __name__ == "__main__":
    raise SystemExit(main())
