"""The process that tries grammars before a request is admitted, so that none can jam the server.

It holds a model's backend and vocabulary, and forks for each grammar: the child compiles it under
limits of memory and time and says what came of it; a child that takes too long is killed. What
such a child did to its memory is gone with it.
"""

from __future__ import annotations

import os
import resource
import selectors
import signal
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from llmplug.errors import GrammarError
from llmplug.grammar import decode_grammar, num_mask_words

if TYPE_CHECKING:
    from llmplug.grammar import GrammarBackend, GrammarState

TIME_S = 1.5  # from the fork to the verdict
MEMORY_BYTES = 512 * 2**20  # beyond what the process holds already
MAX_CHILDREN = 2  # more of them would take the cores from the engine
NICENESS = 5  # answers under way come first
NUM_STEPS = 4  # that a grammar is followed for
BUSY_SHARE = 0.25  # of the time a child has; one that computed for less was held up by others
STDIN = 0
LENGTH_BYTES = 4  # big-endian, before each message
WORD_BYTES = 4  # of a mask


class Trial(msgspec.Struct, frozen=True, array_like=True):
    """A grammar to try."""

    id: int
    grammar: bytes


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """What came of it; None: it can be followed."""

    id: int
    error: str | None
    is_busy: bool = False  # the error is the machine's, and another try may do


@dataclass(slots=True)
class _Child:
    trial: Trial
    pid: int
    deadline: float


def run_grammar_process(backend: GrammarBackend, vocab_size: int) -> int:
    """Try grammars that come on stdin until it ends; verdicts go to stdout."""
    source = os.fdopen(os.dup(STDIN), "rb", buffering=0)
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        waiting: deque[Trial] = deque()
        children: dict[int, _Child] = {}  # by the descriptor of their pipe
        buffer = bytearray()
        while True:
            while waiting and len(children) < MAX_CHILDREN:
                reader, child = _fork(backend, vocab_size, waiting.popleft())
                children[reader] = child
                selector.register(reader, selectors.EVENT_READ)
            for key, _ in selector.select(_time_left(children)):
                if key.fileobj is source:
                    data = os.read(source.fileno(), 1 << 20)
                    if not data:
                        return 0
                    buffer += data
                    waiting.extend(_take_trials(buffer))
                else:
                    selector.unregister(key.fileobj)
                    _end(children.pop(key.fd), key.fd)
            for reader in [fd for fd, each in children.items() if each.deadline < time.monotonic()]:
                selector.unregister(reader)
                _end(children.pop(reader), reader, is_late=True)


def read_payload() -> bytes:
    """Read what the server writes first, and not a byte more.

    Raises:
        SystemExit: the server is gone already.
    """
    return _read_exactly(int.from_bytes(_read_exactly(LENGTH_BYTES), "big"))


def frame_message(data: bytes) -> bytes:
    """Put its length before a message."""
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def _read_exactly(count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = os.read(STDIN, count - len(data))
        if not part:
            raise SystemExit(0)
        data += part
    return data


def _take_trials(buffer: bytearray) -> list[Trial]:
    """Cut the whole messages off the buffer."""
    trials = []
    while len(buffer) >= LENGTH_BYTES:
        end = LENGTH_BYTES + int.from_bytes(buffer[:LENGTH_BYTES], "big")
        if len(buffer) < end:
            break
        trials.append(msgspec.msgpack.decode(bytes(buffer[LENGTH_BYTES:end]), type=Trial))
        del buffer[:end]
    return trials


def _time_left(children: dict[int, _Child]) -> float | None:
    if not children:
        return None
    return max(0.0, min(each.deadline for each in children.values()) - time.monotonic())


def _fork(backend: GrammarBackend, vocab_size: int, trial: Trial) -> tuple[int, _Child]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _try(backend, vocab_size, trial, writer)
    os.close(writer)
    return reader, _Child(trial, pid, time.monotonic() + TIME_S)


def _try(backend: GrammarBackend, vocab_size: int, trial: Trial, writer: int) -> None:
    """In the child: compile, make a few steps, tell, and be gone."""
    words = "the grammar cannot be compiled"
    try:
        _limit()
        _walk(backend.compile(decode_grammar(trial.grammar)).start(), vocab_size)
        words = ""
    except GrammarError as error:
        words = str(error) or words
    except MemoryError:
        words = _too_large()
    except BaseException as error:  # noqa: BLE001 - whatever a plugin raises is told
        words = f"{words}: {error!r}"
    finally:
        with suppress(OSError):
            os.write(writer, b"\1" + words.encode("utf-8", "replace")[:2000])
        os._exit(0)


def _walk(state: GrammarState, vocab_size: int) -> None:
    """Follow a grammar for a few tokens, the first that may come: libraries build it lazily."""
    mask = memoryview(bytearray(num_mask_words(vocab_size) * WORD_BYTES))
    for _ in range(NUM_STEPS):
        state.fill_mask(mask.cast("i"))
        bits = int.from_bytes(mask, sys.byteorder)
        if not bits:
            raise GrammarError("the grammar allows no answer")
        first = (bits & -bits).bit_length() - 1
        if state.is_done or not state.accept(first):
            return


def _limit() -> None:
    """Bound the memory and the processor time of this process."""
    with open("/proc/self/statm", "rb") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES, held + MEMORY_BYTES))
    os.nice(NICENESS)
    seconds = int(TIME_S) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end(child: _Child, reader: int, *, is_late: bool = False) -> None:
    """Read a child's verdict, or make one for it, and pass it on."""
    said = b"" if is_late else os.read(reader, 1 << 16)
    os.close(reader)
    if not said:
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
    _, _, usage = os.wait4(child.pid, 0)
    is_busy = is_late and usage.ru_utime + usage.ru_stime < TIME_S * BUSY_SHARE
    if is_late:
        error: str | None = f"the grammar takes more than {TIME_S:g} s to compile"
    elif not said:
        error = _too_large()  # an allocation that fails ends most libraries at once
    else:
        error = said[1:].decode("utf-8", "replace") or None
    verdict = Verdict(child.trial.id, error, is_busy)
    sys.stdout.buffer.write(frame_message(msgspec.msgpack.encode(verdict)))
    sys.stdout.buffer.flush()


def _too_large() -> str:
    return f"the grammar takes more than {MEMORY_BYTES >> 20} MiB to compile"
