"""Whether the server still moves: its event loop, its long-lived tasks, its engines.

A thread of its own looks while requests run, so that whatever stands still cannot hide that; it
sleeps while there are none. What it finds stands in `/ready`; the first sight of a stall writes the
stacks of all threads to the log, once.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import FrameType
    from typing import Any

log = logging.getLogger("llmplug.server")

PERIOD_S = 0.5  # between two looks
LOOP_STALL_S = 5.0  # an event loop that has not come round for so long stands still
MAX_STACKS_CHARS = 200_000


class Watchdog:
    """Watches one event loop and the tasks that were started with it.

    Args:
        find_stalls: says what else stands still, such as an engine; called in its thread.
        on_stall: called once per stall, there too, after the stacks are written.
    """

    def __init__(
        self,
        find_stalls: Callable[[], list[str]] = list,
        on_stall: Callable[[], None] = lambda: None,
        *,
        loop_stall_s: float = LOOP_STALL_S,
        period_s: float = PERIOD_S,
    ) -> None:
        self._find_stalls = find_stalls
        self._on_stall = on_stall
        self._loop_stall_s = loop_stall_s
        self._period_s = period_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last_beat = time.monotonic()
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._ended: dict[str, str] = {}  # name of a task -> how it ended
        self._is_stopping = threading.Event()
        self._is_busy = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._has_told = False

    def start(self) -> Self:
        """Watch the running event loop from now on."""
        self._loop = asyncio.get_running_loop()
        self._last_beat = time.monotonic()
        self._thread.start()
        return self

    def run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Start a task that is to live as long as the server does."""
        task = asyncio.create_task(work, name=name)
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._note_end(name, task))

    def wake(self) -> None:
        """Look from now on, every `period_s`."""
        self._last_beat = time.monotonic()
        self._is_busy.set()

    def rest(self) -> None:
        """Look no longer: nothing is to be done that could stand still."""
        self._is_busy.clear()

    async def stop(self) -> None:
        """Cancel the tasks, and end the thread."""
        self._is_stopping.set()
        self._is_busy.set()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def find_problems(self) -> list[str]:
        """Say what stands still or has ended; from any thread, and even if the loop hangs.

        Of an event loop without requests nothing is known.
        """
        problems = [f"the task '{name}' {how}" for name, how in list(self._ended.items())]
        silent_s = time.monotonic() - self._last_beat
        if self._is_busy.is_set() and silent_s > self._loop_stall_s:
            problems.append(f"the event loop has stood still for {silent_s:.0f} s")
        if not self._thread.is_alive() and self._loop is not None:
            problems.append("the watchdog's thread has ended")
        return problems

    def _note_end(self, name: str, task: asyncio.Task[Any]) -> None:
        if self._is_stopping.is_set():
            return
        error = None if task.cancelled() else task.exception()
        self._ended[name] = "was cancelled" if task.cancelled() else f"ended: {error!r:.200}"
        log.error("the task '%s' %s", name, self._ended[name], exc_info=error)

    def _watch(self) -> None:
        while self._is_busy.wait() and not self._is_stopping.wait(self._period_s):
            self._ask_for_beat()
            problems = self.find_problems() + self._find_stalls()
            if problems and not self._has_told:
                log.error("%s; the stacks of all threads:\n%s", "; ".join(problems), dump_stacks())
                self._on_stall()
            self._has_told = bool(problems)

    def _ask_for_beat(self) -> None:
        if self._loop is None or self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._beat)

    def _beat(self) -> None:
        self._last_beat = time.monotonic()


def dump_stacks() -> str:
    """Write down where every thread of this process is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    text = io.StringIO()
    for ident, frame in sys._current_frames().items():
        _write_stack(text, names.get(ident, "?"), frame)
    return text.getvalue()[:MAX_STACKS_CHARS]


def _write_stack(text: io.StringIO, name: str, frame: FrameType) -> None:
    text.write(f"thread {name}:\n")
    text.writelines(traceback.format_stack(frame))
