"""An engine process over the fake model that cannot do without another rank, which is a file."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT / "tests")]

from engine.fake_model import FakeModel, make_engine  # noqa: E402

from llmplug import EngineUnavailable  # noqa: E402
from llmplug.engine.runner import RunnerLost  # noqa: E402
from llmplug.engine.worker import read_payload, run_worker  # noqa: E402


class Other:
    """A rank that is lost when its file is gone."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def watch(self, on_lost: Callable[[Exception], None]) -> None:
        def look() -> None:
            while self._file.exists():
                time.sleep(0.01)
            on_lost(EngineUnavailable("the file of rank 1 is gone"))

        threading.Thread(target=look, daemon=True).start()

    def await_loss(self) -> None:
        if not self._file.exists():
            signal.pause()


class Waiting(FakeModel):
    """Waits for the other rank as in a sum where a prompt has 91, and fails where it has 92."""

    def __init__(self, sign: Path) -> None:
        super().__init__()
        self.sign = sign  # a file that says that it waits

    def forward(self, token_ids_T, positions_T, caches, attention):
        if 91 in token_ids_T:
            self.sign.touch()
            signal.pause()
        if 92 in token_ids_T:
            raise RunnerLost("rank 0 failed in the middle of a step")
        return super().forward(token_ids_T, positions_T, caches, attention)


def main() -> int:
    file = Path(json.loads(read_payload(sys.argv[1]))["file"])
    file.touch()
    model = Waiting(file.with_suffix(".waits"))
    return run_worker(sys.argv[1], lambda progress: make_engine(model), others=Other(file))


if __name__ == "__main__":
    sys.exit(main())
