"""How fast texts are embedded: `python -m benchmarks.embeddings --config ... --peer-python ...`.

Our server over HTTP, and sentence-transformers in a process of its own without any HTTP, embed the
same texts on the same cores, by turns. The first turn warms both up and is not counted. The last
line has the ratio of the medians, and how far the vectors lie apart.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.server import ServerProcess, find_free_port, first_model
from llmplug.assemble import load_registry, plan_text
from llmplug.config import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from llmplug.plan import TextPlan

    Vectors = NDArray[np.float32]

PROSE = Path(__file__).with_name("prose.txt")
PEER = Path(__file__).with_name("encode_peer.py")
READY_TIMEOUT_S = 300.0
REQUEST_TIMEOUT_S = 600.0
# Words of a text: from a query to a passage that fills most of what MiniLM reads.
SHORTEST, LONGEST = 4, 160
# Long texts are cut, as sentence-transformers does unasked.
FIELDS = {"encoding_format": "base64", "truncate_prompt_tokens": -1}


def make_texts(count: int, seed: int) -> list[str]:
    """Cut pieces of all lengths out of the prose, the same for the same seed."""
    words = PROSE.read_text().split()
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        length = rng.randint(SHORTEST, LONGEST)
        start = rng.randrange(len(words) - length)
        texts.append(" ".join(words[start : start + length]))
    return texts


async def embed_over_http(
    url: str, model: str, texts: Sequence[str], *, batch: int, clients: int
) -> tuple[float, Vectors]:
    """Send the texts in requests of `batch`, some at once; return the seconds, and the vectors."""
    limit = asyncio.Semaphore(clients)
    async with httpx.AsyncClient(timeout=REQUEST_TIMEOUT_S) as http:

        async def send(part: Sequence[str]) -> list[bytes]:
            body = {"model": model, "input": part, **FIELDS}
            async with limit:
                reply = await http.post(f"{url}/v1/embeddings", json=body)
            reply.raise_for_status()
            return [base64.b64decode(each["embedding"]) for each in reply.json()["data"]]

        started = time.perf_counter()
        parts = [texts[start : start + batch] for start in range(0, len(texts), batch)]
        replies = await asyncio.gather(*(send(part) for part in parts))
        seconds = time.perf_counter() - started
    return seconds, _unpack([vector for reply in replies for vector in reply], len(texts))


class Peer:
    """sentence-transformers in another process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.about = self._read()

    def embed(self, texts: Sequence[str], batch: int) -> tuple[float, Vectors]:
        """Have it encode; return the seconds, and the vectors."""
        pipe = self._process.stdin
        if pipe is None:
            raise ValueError("the peer reads from a pipe")
        pipe.write(json.dumps({"texts": list(texts), "batch": batch}) + "\n")
        pipe.flush()
        reply = self._read()
        return reply["seconds"], _unpack([base64.b64decode(reply["vectors"])], len(texts))

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit(f"the peer ended with status {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def open_peer(python: str, folder: Path) -> Iterator[Peer]:
    """Start sentence-transformers with a model's folder, and end it."""
    command = [python, str(PEER), str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Peer(process)
        finally:
            process.kill()


def measure(args: argparse.Namespace, url: str, peer: Peer | None, plan: TextPlan) -> None:
    """Let both take turns; print a line for each, and one for the two."""
    model = first_model(url)
    rates: dict[str, list[float]] = {}
    apart = 0.0
    for turn in range(args.rounds + 1):
        texts = make_texts(args.texts, seed=turn)
        seconds, ours = asyncio.run(
            embed_over_http(url, model, texts, batch=args.batch, clients=args.clients)
        )
        taken = {"llmplug": seconds}
        if peer is not None:
            taken["sentence-transformers"], theirs = peer.embed(texts, args.batch)
            apart = max(apart, float(np.abs(ours - theirs).max()))
        if turn:
            for name, value in taken.items():
                rates.setdefault(name, []).append(len(texts) / value)
    tokens = [len(plan.tokenizer.encode(text)) for text in make_texts(args.texts, seed=1)]
    shared = {
        "model": model, "texts": args.texts, "batch": args.batch, "clients": args.clients,
        "mean_tokens": round(statistics.mean(tokens), 1), "machine": describe_machine(),
    }  # fmt: skip
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        row = {"server": name, "texts_per_s": [round(each, 1) for each in found]}
        print(json.dumps({"kind": "embeddings", **row, **shared}), flush=True)
    if peer is not None:
        ratio = round(medians["llmplug"] / medians["sentence-transformers"], 3)
        line = {"kind": "ratio", "ratio": ratio, "largest_difference": apart, "peer": peer.about}
        print(json.dumps(line), flush=True)


def _unpack(parts: Sequence[bytes], count: int) -> Vectors:
    return np.frombuffer(b"".join(parts), "<f4").reshape(count, -1)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a JSON line for each of the two, and the ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embeddings", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--peer-python", help="a Python that has sentence-transformers")
    parser.add_argument("--texts", type=int, default=512, help="of a turn")
    parser.add_argument("--batch", type=int, default=32, help="texts of a request, and of the peer")
    parser.add_argument("--clients", type=int, default=4, help="requests at once")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    config = load(args.config)
    plan = plan_text(config.models[0], load_registry(config), lambda stage, done, total: None)
    port = find_free_port()
    serve = [sys.executable, "-m", "llmplug", "serve", "--config", str(args.config)]
    command = [*serve, "--set", f"server.port={port}"]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with ServerProcess(command, url, log, READY_TIMEOUT_S):
            if args.peer_python is None:
                measure(args, url, None, plan)
            else:
                with open_peer(args.peer_python, plan.files.path) as peer:
                    measure(args, url, peer, plan)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
