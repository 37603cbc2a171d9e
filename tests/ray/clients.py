"""OpenAI's client, and many that ask without a pause."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai

# What a client is told of a server that was lost.
LOST = {openai.APIConnectionError, openai.APIError, openai.InternalServerError}


def ask(question: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    more = {"temperature": 0, "max_tokens": 32, "extra_body": {"ignore_eos": True}}
    return {"model": "tiny", "messages": messages, **more, **fields}


def join(stream: Any) -> tuple[str, str | None]:
    """Read a stream to its end: its text, and why it ended."""
    text, reason = "", None
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason


def read_metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=30).raise_for_status().text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@dataclass
class Load:
    """What clients that ask without a pause were told so far."""

    texts: list[str | None] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def ask_on(self, client: Any) -> None:
        while not self.is_over.is_set():
            try:
                stream = client.chat.completions.create(**ask("And?", max_tokens=200), stream=True)
                text, reason = join(stream)
                self.texts.append(text if reason == "length" else None)
            except openai.OpenAIError as error:
                self.failures.append(error)


@contextmanager
def load(client: Any, num_clients: int) -> Iterator[Load]:
    """Ask while the block runs; at its end all that was begun is answered."""
    asked = Load()
    with ThreadPoolExecutor(num_clients) as pool:
        tasks = [pool.submit(asked.ask_on, client) for _ in range(num_clients)]
        try:
            yield asked
        finally:
            asked.is_over.set()
    for task in tasks:
        task.result()
