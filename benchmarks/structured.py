"""What holding answers to a form costs: `python -m benchmarks.structured --config ...`.

First the masks, alone: microseconds for each token of an answer chosen at random among what its
form allows. Then the whole server: tokens per second of clients whose answers have a form, over
that of clients whose answers have none; the two take turns.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.client import Job, run_clients
from benchmarks.machine import describe_machine
from benchmarks.server import ServerProcess, find_free_port, first_model
from benchmarks.workload import Workload, make_prompts
from llmplug.assemble import load_registry, plan_text
from llmplug.config import load
from llmplug.grammar import Json, Regex
from llmplug.processes import grammar_payload, open_grammar_backend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.grammar import CompiledGrammar, GrammarBackend, Node

WORKLOAD = Workload("structured", 128, 128)
READY_TIMEOUT_S = 300.0
_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "format": "email"},
        "kind": {"enum": ["customer", "supplier", "both"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}},
    },
    "required": ["name", "age", "email", "kind", "tags"],
    "additionalProperties": False,
}
# No answer of the workload comes to its end, so that all have the same length.
ENDLESS = {"type": "array", "items": _PERSON, "minItems": 1000}
FORMS: dict[str, Node] = {
    "schema": Json(ENDLESS),
    "any object": Json({"type": "object", "minProperties": 1000}),
    "regex": Regex(r"([A-Z][a-z]{2,9} \d{1,3}, ){500}"),
}


def measure_masks(
    backend: GrammarBackend, vocab_size: int, node: Node, num_tokens: int
) -> dict[str, Any]:
    """Follow a form several times, and time each mask."""
    started = time.perf_counter()
    grammar = backend.compile(node)
    compile_s = time.perf_counter() - started
    rng = random.Random(1)
    taken: list[int] = []
    while len(taken) < num_tokens:
        taken += _time_answer(grammar, vocab_size, rng)
    taken.sort()
    return {
        "compile_ms": round(compile_s * 1e3, 2),
        "mean_us": round(statistics.mean(taken) / 1e3, 1),
        "p50_us": round(taken[len(taken) // 2] / 1e3, 1),
        "p99_us": round(taken[len(taken) * 99 // 100] / 1e3, 1),
        "max_us": round(taken[-1] / 1e3, 1),
        "num_masks": len(taken),
    }


def _time_answer(grammar: CompiledGrammar, vocab_size: int, rng: random.Random) -> list[int]:
    """Nanoseconds of each mask of one answer, of as many tokens as the workload has."""
    state = grammar.start()
    mask = memoryview(bytearray(-(-vocab_size // 32) * 4)).cast("i")
    taken = []
    for _ in range(WORKLOAD.output_tokens):
        started = time.perf_counter_ns()
        state.fill_mask(mask)
        taken.append(time.perf_counter_ns() - started)
        if not state.accept(_choose(mask, rng)) or state.is_done:
            break
    return taken


def _choose(mask: memoryview, rng: random.Random) -> int:
    words = [index for index in range(len(mask)) if mask[index]]
    word = rng.choice(words)
    bits = [bit for bit in range(32) if mask[word] >> bit & 1]
    return word * 32 + rng.choice(bits)


def measure_throughput(url: str, clients: int, rounds: int, per_client: int) -> dict[str, Any]:
    """Let clients with and without a form take turns."""
    fields: dict[str, dict[str, Any]] = {
        "free": {},
        "structured": {"ignore_eos": None, "structured_outputs": {"json": ENDLESS}},
    }
    model = first_model(url)
    rates: dict[str, list[float]] = {name: [] for name in fields}
    for turn in range(rounds + 1):  # the first warms up
        for number, name in enumerate(sorted(fields, reverse=bool(turn % 2))):
            prompts = make_prompts(WORKLOAD, clients * per_client, seed=2 * turn + number)
            job = Job(url, model, prompts, WORKLOAD.output_tokens, clients, fields=fields[name])
            timings = run_clients(job)
            failures = [timing.failure for timing in timings if timing.failure]
            if failures:
                raise SystemExit(f"{name}: {failures[0]}")
            seconds = max(each.ended for each in timings) - min(each.started for each in timings)
            if turn:
                rates[name].append(sum(each.output_tokens for each in timings) / seconds)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "clients": clients,
        **{f"{name}_tokens_per_s": [round(each, 1) for each in rates[name]] for name in rates},
        "ratio": round(medians["structured"] / medians["free"], 3),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print a JSON line for each form, and one for the server."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structured", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--masks", type=int, default=5000, help="masks of each form")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="0: the masks alone")
    parser.add_argument("--requests", type=int, default=4, help="of each client in a round")
    args = parser.parse_args(argv)
    config = load(args.config)
    plan = plan_text(config.models[0], load_registry(config), lambda stage, done, total: None)
    backend, vocab_size = open_grammar_backend(grammar_payload(plan, config))
    machine = describe_machine()
    for name, node in FORMS.items():
        row = measure_masks(backend, vocab_size, node, args.masks)
        row |= {"form": name, "vocab_size": vocab_size, "machine": machine}
        print(json.dumps({"kind": "mask", **row}), flush=True)
    if not args.rounds:
        return 0
    port = find_free_port()
    serve = [sys.executable, "-m", "llmplug", "serve", "--config", str(args.config)]
    command = [*serve, "--set", f"server.port={port}"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        url = f"http://127.0.0.1:{port}"
        with ServerProcess(command, url, log, READY_TIMEOUT_S):
            row = measure_throughput(url, args.clients, args.rounds, args.requests)
    print(json.dumps({"kind": "structured", **row, "machine": machine}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
