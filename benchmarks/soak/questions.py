"""What is asked: few texts, over every protocol, at temperature 0.

An answer depends on protocol and text alone, so that one given in the middle of a storm can be
compared with one given before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

NUM_TEXTS = 8
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")


@dataclass(frozen=True, slots=True)
class Question:
    """One request; those of the same path and text have the same answer."""

    path: str
    text: int  # 0 to NUM_TEXTS - 1
    is_streamed: bool

    def body(self, model: str) -> dict[str, Any]:
        """What is sent."""
        text = f"Question {self.text}: " + "why " * (3 * self.text)
        fields: dict[str, Any] = {"model": model, "stream": self.is_streamed, "temperature": 0}
        num_tokens = 16 + 13 * self.text
        if self.path == "/v1/completions":
            return {**fields, "prompt": text, "max_tokens": num_tokens}
        if self.path == "/v1/responses":
            return {**fields, "input": text, "max_output_tokens": num_tokens, "store": False}
        messages = [{"role": "user", "content": text}]
        return {**fields, "messages": messages, "max_tokens": num_tokens}


def list_questions() -> list[Question]:
    """Each of them once, not streamed."""
    return [Question(path, text, False) for path in PATHS for text in range(NUM_TEXTS)]


def choose_question(rng: random.Random) -> Question:
    """Any of them, streamed or not."""
    return Question(rng.choice(PATHS), rng.randrange(NUM_TEXTS), rng.random() < 0.6)
