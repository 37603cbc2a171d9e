"""An engine process over the fake reader: a text that starts with 90 kills it, 91 hangs it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests")]

from engine.fake_reader import FakeReader, make_pooling_engine  # noqa: E402

from llmplug.engine.worker import read_payload, run_worker  # noqa: E402


class Unruly(FakeReader):
    """Dies, hangs or is slow on demand."""

    def __init__(self, options) -> None:
        super().__init__()
        self.options = options

    def encode(self, batch):
        hidden_TD = super().encode(batch)
        time.sleep(self.options.get("step_s", 0))
        first_ids = {text[0] for text in self.batches[-1]}
        marker = self.options.get("die_once")
        if 90 in first_ids and not (marker and Path(marker).exists()):
            if marker:
                Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if 91 in first_ids:
            signal.pause()
        return hidden_TD


def main() -> int:
    options = json.loads(read_payload(sys.argv[1]))
    return run_worker(sys.argv[1], lambda progress: make_pooling_engine(Unruly(options)))


if __name__ == "__main__":
    sys.exit(main())
