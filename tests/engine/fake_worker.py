"""An engine process over the fake model; its payload says how it misbehaves."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests")]

from engine.fake_model import FakeModel, make_engine  # noqa: E402

from llmplug import CheckpointError  # noqa: E402
from llmplug.engine.worker import read_payload, run_worker  # noqa: E402


class Unruly(FakeModel):
    """Dies, hangs or is slow on demand: a prompt that starts with 90 kills the process."""

    def __init__(self, options) -> None:
        super().__init__()
        self.options = options

    def forward(self, token_ids_T, positions_T, caches, attention):
        if not gc.isenabled():
            raise RuntimeError("nobody turned the garbage collector on again")
        time.sleep(self.options.get("step_s", 0))
        first_ids = token_ids_T[positions_T == 0].tolist()
        marker = self.options.get("die_once")
        if 90 in first_ids and not (marker and Path(marker).exists()):
            if marker:
                Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if 91 in first_ids:
            signal.pause()  # hangs until somebody sends a signal
        return super().forward(token_ids_T, positions_T, caches, attention)


def main() -> int:
    gc.disable()  # as a real one does while it starts
    options = json.loads(read_payload(sys.argv[1]))

    def build(progress):
        progress("reading", 1, 2)
        progress("reading", 2, 2)
        if options.get("fails"):
            raise CheckpointError("tensor x is missing")
        if options.get("hangs"):
            signal.pause()
        if options.get("exits"):
            sys.exit(7)
        if once := options.get("load_once"):
            if Path(once).exists():
                sys.exit(5)
            Path(once).touch()
        return make_engine(Unruly(options))

    return run_worker(sys.argv[1], build)


if __name__ == "__main__":
    sys.exit(main())
