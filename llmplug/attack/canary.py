"""A stream that runs beside every attack: it must say, byte for byte, what it says alone."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmplug.conformance.checks import CheckFailed, expect

if TYPE_CHECKING:
    from llmplug.conformance.target import Target

NUM_TOKENS = 160  # few enough for a context of 256


class Canary:
    """Sings one song again and again.

    Args:
        breath_s: a token must follow the one before so soon, whatever others ask for.
    Raises:
        CheckFailed: the server does not give the same answer twice, while nothing else runs.
    """

    def __init__(self, target: Target, breath_s: float) -> None:
        self._target = target
        self._breath_s = breath_s
        self._song = self._sing()
        expect(self._song, "the canary's answer is empty")
        expect(self._sing() == self._song, "an idle server gives two answers to one question")

    @contextmanager
    def singing(self) -> Iterator[None]:
        """Sing while something else is done, and once to the end.

        Raises:
            CheckFailed: a song was another, or broke off.
        """
        has_begun, may_end = threading.Event(), threading.Event()
        faults: list[str] = []

        def sing() -> None:
            try:
                while not may_end.is_set() and not faults:
                    song = self._sing(has_begun)
                    if song != self._song:
                        faults.append(f"the canary sang {song[-60:]!r}, not {self._song[-60:]!r}")
            except CheckFailed as failure:
                faults.append(f"the canary fell silent: {failure}")
            has_begun.set()

        thread = threading.Thread(target=sing, name="canary", daemon=True)
        thread.start()
        has_begun.wait(self._target.timeout_s)
        try:
            yield
        finally:
            may_end.set()
            thread.join(self._target.timeout_s)
        expect(not thread.is_alive(), "the canary did not come to an end")
        expect(not faults, "".join(faults))

    def _sing(self, has_begun: threading.Event | None = None) -> str:
        """Stream one answer; return its text and why it ended."""
        target = self._target
        body = {
            "model": target.model,
            "prompt": "Once upon a time",
            "max_tokens": NUM_TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        headers = {"Content-Type": "application/json", **target.headers_with_key}
        connection = target.connect()
        song = ""
        heard_at = time.perf_counter()
        try:
            path = f"{target.root}/v1/completions"
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            expect(response.status == 200, f"status {response.status}")
            for line in response:
                if line.startswith(b"data: {"):
                    song += _read_event(line)
                    gap_s, heard_at = time.perf_counter() - heard_at, time.perf_counter()
                    expect(gap_s < self._breath_s, f"no token for {gap_s:.2f} s")
                    if has_begun is not None:
                        has_begun.set()
                elif line.startswith(b"data: [DONE]"):
                    return song
        except (OSError, http.client.HTTPException, ValueError) as error:
            return expect(False, repr(error))
        finally:
            connection.close()
        return expect(False, f"the stream broke off after {song[-60:]!r}")


def _read_event(line: bytes) -> str:
    chunk = json.loads(line.removeprefix(b"data: "))
    expect("error" not in chunk, str(chunk))
    return "".join(
        choice["text"] + (f" <{choice['finish_reason']}>" if choice["finish_reason"] else "")
        for choice in chunk["choices"]
    )
