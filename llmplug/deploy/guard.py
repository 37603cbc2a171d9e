"""A program that runs another one for as long as somebody holds its stdin open.

Ray kills the processes of its actors; what those started would live on, on the GPU. This one is
told by its stdin when whoever started it is gone, passes that on as SIGTERM, and buries its child.
It imports nothing of ours, so that it takes next to no memory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import FrameType


def guard(command: list[str]) -> int:
    """Run a command; end it when stdin ends; return its exit status, 128 and more for a signal."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - our caller's own

    def pass_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    threading.Thread(target=_end_with_stdin, args=(process,), daemon=True).start()
    status = process.wait()
    return status if status >= 0 else 128 - status


def _end_with_stdin(process: subprocess.Popen[bytes]) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    process.terminate()


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))
