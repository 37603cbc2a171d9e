"""A program that runs another one for as long as somebody holds its stdin open.

Ray kills the processes of its actors, and sometimes the children of those; what these had started
would live on, on the GPU. This one is told by its stdin when whoever started it is gone, passes
that on as SIGTERM, and buries its child. When it is killed itself, Linux tells the child. It
imports nothing of ours, so that it takes next to no memory.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from types import FrameType

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def guard(command: list[str]) -> int:
    """Run a command; end it when stdin ends; return its exit status, 128 and more for a signal."""
    own = os.getpid()
    process = subprocess.Popen(  # noqa: S603 - our caller's own
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: _end_with_parent(own),  # noqa: PLW1509 - no thread runs yet
    )

    def pass_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    threading.Thread(target=_end_with_stdin, args=(process,), daemon=True).start()
    status = process.wait()
    return status if status >= 0 else 128 - status


def _end_with_parent(parent: int) -> None:
    """Ask for SIGTERM at the end of the thread that forked us; elsewhere than on Linux, nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has just ended
            os.kill(os.getpid(), signal.SIGTERM)


def _end_with_stdin(process: subprocess.Popen[bytes]) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    process.terminate()


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))
