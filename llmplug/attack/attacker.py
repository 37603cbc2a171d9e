"""Sends what ought to be refused, and holds each answer against what every answer must be."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmplug.conformance.checks import expect, expect_refused

if TYPE_CHECKING:
    from llmplug.conformance.target import Answer, Target

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"

QUESTION = [{"role": "user", "content": "Say hello."}]
# What each endpoint needs at least; an attack adds its own.
WHOLESOME: dict[str, dict[str, Any]] = {
    CHAT: {"messages": QUESTION, "max_tokens": 4},
    COMPLETIONS: {"prompt": "Once upon a time", "max_tokens": 4},
    RESPONSES: {"input": "Say hello.", "max_output_tokens": 4, "store": False},
    MESSAGES: {"messages": QUESTION, "max_tokens": 4},
}
GENERATING = tuple(WHOLESOME)
# What no client may be told: where things lie in memory and on disk, and what runs where.
LEAKS = re.compile(
    rb"0x[0-9a-f]{6}|Traceback|site-packages|\.py\b|line \d+, in |/(home|root|usr|opt|tmp|var)/",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacker:
    """Whoever attacks a server.

    Attributes:
        within_s: a refusal must come so soon.
    """

    target: Target
    within_s: float = 1.0

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """Send a request, with the options of `Target.ask`.

        Raises:
            CheckFailed: no answer, a refusal that comes late or tells too much, or a status of
                500 and above.
        """
        started = time.perf_counter()
        answer = self.target.ask(method, path, body, **options)
        if answer.status >= 400:
            seconds = time.perf_counter() - started
            shown = answer.body[:120]
            expect(answer.status < 500, f"status {answer.status}: {shown!r}")
            expect(seconds < self.within_s, f"the refusal took {seconds:.2f} s: {shown!r}")
            self.check_words(answer.body)
        return answer

    def send(self, path: str, /, **fields: Any) -> Answer:
        """Send fields beside what an endpoint needs; they may be refused, or answered."""
        wholesome = WHOLESOME.get(path, {})
        return self.ask("POST", path, {"model": self.target.model, **wholesome, **fields})

    def expect_refused(self, path: str, param: str | None = None, /, **fields: Any) -> None:
        """Send fields that must be refused.

        Args:
            param: what the refusal must name; None: nothing of its own.
        """
        answer = self.send(path, **fields)
        # Anthropic's errors name no field.
        named = None if path == MESSAGES else param
        shown = ", ".join(f"{name}={str(value)[:24]}" for name, value in fields.items())
        expect(400 <= answer.status < 500, f"{path} {shown}: status {answer.status}")
        expect_refused(answer, answer.status, param=named)

    def patient(self, times: float) -> Attacker:
        """The same, who waits so many times longer: for what takes a server time of its own."""
        return replace(self, within_s=self.within_s * times)

    def check_words(self, words: bytes) -> None:
        """See that the server does not tell what no client may know.

        Raises:
            CheckFailed: it does.
        """
        leak = LEAKS.search(words)
        expect(leak is None, f"it tells {leak and leak[0]!r}: {words[:120]!r}")
