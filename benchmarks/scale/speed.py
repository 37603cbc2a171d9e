"""What a step costs on a machine: fitted to measurements, or assumed where there are none.

    seconds = step + token * new tokens + sampled * ends of sequences
              + read * cached tokens of decodes + pair * pairs of tokens in chunks

These are the terms of `llmplug.engine.cost_model`, and the output head, which only the last token
of a sequence passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.results import pick, reach

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.results import Line

# Lengths of the measured workloads: benchmarks/workload.py.
SHORT, LONG = (128, 128), (1024, 128)
PREFILL = 512
CHUNK = 256  # scheduler.prefill_chunk


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds; all are at least 0.

    Attributes:
        around: of each request, outside of the engine: HTTP, tokenising.
        cache_tokens: that the key/value cache holds.
        is_measured: False where all of it is assumed.
    """

    step: float
    token: float
    sampled: float
    read: float
    pair: float
    around: float = 0.0
    cache_tokens: int = 100_000
    is_measured: bool = True

    def decode_s(self, num_sequences: int, num_cached: float) -> float:
        """Return what a step of decodes takes; `num_cached` tokens of all together."""
        per_sequence = self.token + self.sampled
        return self.step + per_sequence * num_sequences + self.read * num_cached

    def chunk_s(self, num_cached: float, num_tokens: float) -> float:
        """Return what a prompt's chunk adds to a step."""
        pairs = num_tokens * (num_cached + num_tokens / 2)
        return self.token * num_tokens + self.pair * pairs

    def prompt_s(self, num_tokens: int, num_cached: int = 0) -> float:
        """Return what reading a prompt takes that is alone."""
        steps = -(-(num_tokens - num_cached) // CHUNK)
        return steps * self.step + self.chunk_s(num_cached, num_tokens - num_cached) + self.sampled


def fit(lines: Iterable[Line], server: str) -> Speed:
    """Fit to rows of `benchmarks.serve`: the least sum of squared relative errors.

    Raises:
        ValueError: the rows leave a term open.
    """
    rows = [row for row in pick(lines, "row", server=server) if not row.get("failures")]
    equations = [equation for row in rows for equation in _read_row(row)]
    terms = np.array([terms for terms, _ in equations])
    seconds = np.array([seconds for _, seconds in equations])
    found = _solve(terms / seconds[:, None], np.ones(len(seconds)))
    # Six digits: the last ones are the processor's, and one of them can turn a queue around.
    step, token, sampled, read, pair, around = (float(f"{value:.6g}") for value in found)
    return Speed(step, token, sampled, read, pair, around)


def relative_errors(speed: Speed, lines: Iterable[Line], server: str) -> list[float]:
    """Return by how much each measurement is missed, in parts of it."""
    rows = [row for row in pick(lines, "row", server=server) if not row.get("failures")]
    terms = (speed.step, speed.token, speed.sampled, speed.read, speed.pair, speed.around)
    return [
        float(np.dot(equation, terms)) / seconds - 1
        for row in rows
        for equation, seconds in _read_row(row)
    ]


def _read_row(row: Line) -> list[tuple[list[float], float]]:
    """Return equations: factors of (step, token, sampled, read, pair, around), and seconds."""
    name, clients = row["workload"], row["clients"]
    first_s = reach(row, "ttft_ms", "runs", "median")
    next_s = reach(row, "tpot_ms", "runs", "median")
    if clients == 1 and name == "prefill-512":
        return [(_prompt_terms(PREFILL), first_s / 1000)]
    lengths = {"random-128-128": SHORT, "shared-0": LONG}.get(name)
    if lengths is None:
        return []
    prompt, output = lengths
    if clients == 1:
        read = prompt + output / 2
        return [
            (_prompt_terms(prompt), first_s / 1000),
            ([1.0, 1.0, 1.0, read, 0.0, 0.0], next_s / 1000),
        ]
    # In the long run a step holds a token of each client, and as much of a prompt as answers end.
    ratio = prompt / output
    tokens = clients * (1 + ratio)
    pairs = clients * ratio * prompt / 2
    reads = clients * (prompt + output / 2)
    rate = reach(row, "output_tok_s", "median")
    return [([1.0, tokens, clients, reads, pairs, 0.0], clients / rate)]


def _prompt_terms(num_tokens: int) -> list[float]:
    steps = -(-num_tokens // CHUNK)
    return [float(steps), float(num_tokens), 1.0, 0.0, num_tokens**2 / 2, 1.0]


def _solve(terms: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Least squares without negative results: the most negative term is left out, and so on."""
    open_terms = [i for i in range(terms.shape[1]) if terms[:, i].any()]
    found = np.zeros(terms.shape[1])
    while open_terms:
        part, _, rank, _ = np.linalg.lstsq(terms[:, open_terms], seconds, rcond=None)
        if rank < len(open_terms):
            raise ValueError("the measurements do not say what each term costs")
        if part.min() >= 0:
            found[open_terms] = part
            return found
        del open_terms[int(part.argmin())]
    return found


def assume_gpu(
    *,
    weight_bytes: float,
    params: float,
    kv_bytes_per_token: float,
    bandwidth: float,
    flops: float,
    memory_bytes: float,
    efficiency: float,
) -> Speed:
    """Return what a device could do that nobody here has measured: a roofline and a factor.

    A step reads the weights once, and the keys and values of each sequence; each new token takes
    two operations a parameter; one time does not hide the other.

    Args:
        params: that a token meets.
        bandwidth: bytes a second.
        flops: a second, in the weights' numbers.
        efficiency: the part of both that is reached, > 0, at most 1.
    """
    token = 2 * params / (flops * efficiency)
    return Speed(
        step=weight_bytes / (bandwidth * efficiency),
        token=token,
        sampled=0.0,
        read=kv_bytes_per_token / (bandwidth * efficiency),
        pair=2 * kv_bytes_per_token / (flops * efficiency),
        cache_tokens=int(max(0.0, 0.9 * memory_bytes - weight_bytes) / kv_bytes_per_token),
        is_measured=False,
    )
