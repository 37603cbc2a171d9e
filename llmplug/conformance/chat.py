"""Chats in one piece."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llmplug.conformance.checks import check, expect, expect_ok

if TYPE_CHECKING:
    from llmplug.conformance.target import Target

REASONS = ("stop", "length", "tool_calls", "content_filter")


@check("chat")
def body(target: Target) -> None:
    """A reply has id, object, created, model, choices with message and finish_reason, and usage."""
    reply = expect_ok(target.chat())
    for name, kind in (("id", str), ("created", int), ("model", str), ("choices", list)):
        expect(isinstance(reply.get(name), kind), f"{name} is {reply.get(name)!r}")
    expect(reply.get("object") == "chat.completion", f"object is {reply.get('object')!r}")
    (choice,) = reply["choices"]
    expect(choice.get("index") == 0, f"index is {choice.get('index')!r}")
    expect(choice.get("finish_reason") in REASONS, f"finish_reason {choice.get('finish_reason')!r}")
    message = choice.get("message") or {}
    expect(message.get("role") == "assistant", f"role is {message.get('role')!r}")
    expect(isinstance(message.get("content"), str), f"content is {message.get('content')!r}")


@check("chat")
def usage(target: Target) -> None:
    """Usage counts prompt and completion, and their sum."""
    found = expect_ok(target.chat()).get("usage") or {}
    prompt: Any = found.get("prompt_tokens")
    completion: Any = found.get("completion_tokens")
    expect(isinstance(prompt, int) and prompt > 0, f"prompt_tokens is {prompt!r}")
    expect(isinstance(completion, int) and completion > 0, f"completion_tokens is {completion!r}")
    expect(found.get("total_tokens") == prompt + completion, f"usage is {found}")


@check("chat")
def max_tokens(target: Target) -> None:
    """An answer that is cut at max_completion_tokens says length, and is no longer."""
    reply = expect_ok(
        target.chat("Count to one hundred.", max_tokens=None, max_completion_tokens=3)
    )
    expect(reply["choices"][0]["finish_reason"] == "length", f"{reply['choices'][0]}")
    expect(reply["usage"]["completion_tokens"] == 3, f"usage is {reply['usage']}")


@check("chat")
def several_choices(target: Target) -> None:
    """N gives so many choices, each with an index of its own."""
    reply = expect_ok(target.chat(n=3, temperature=1.0))
    indexes = [choice.get("index") for choice in reply["choices"]]
    expect(sorted(indexes) == [0, 1, 2], f"indexes are {indexes}")


@check("chat")
def same_seed(target: Target) -> None:
    """The same seed gives the same answer."""
    texts = [
        expect_ok(target.chat(seed=7, temperature=1.0))["choices"][0]["message"]["content"]
        for _ in range(2)
    ]
    expect(texts[0] == texts[1], f"{texts}")


@check("chat")
def stop_string(target: Target) -> None:
    """An answer ends before a stop string, and says stop."""
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
    whole = expect_ok(target.chat(**fields))["choices"][0]["message"]["content"]
    word = next((part for part in whole.split()[1:] if part.isascii()), None)
    if word is None:
        return  # too short an answer to be cut
    choice = expect_ok(target.chat(**fields, stop=[word]))["choices"][0]
    expect(word not in choice["message"]["content"], f"{choice['message']['content']!r}")
    expect(whole.startswith(choice["message"]["content"]), f"{choice['message']['content']!r}")
    expect(choice["finish_reason"] == "stop", f"finish_reason {choice['finish_reason']!r}")


@check("chat")
def logprobs(target: Target) -> None:
    """Logprobs has a token for each of the answer, whose bytes are its text, and top_logprobs."""
    choice = expect_ok(target.chat(logprobs=True, top_logprobs=3))["choices"][0]
    tokens: Any = (choice.get("logprobs") or {}).get("content")
    expect(isinstance(tokens, list) and tokens, f"logprobs is {choice.get('logprobs')!r}")
    for token in tokens:
        top = [each["logprob"] for each in token["top_logprobs"]]
        expect(len(top) == 3, f"{len(top)} top_logprobs")
        expect(top == sorted(top, reverse=True), f"top_logprobs are not in order: {top}")
        expect(all(each <= 0 for each in [token["logprob"], *top]), f"above 0: {token}")
        expect(sum(map(math.exp, top)) <= 1.001, f"probabilities sum to more than 1: {top}")
    said = b"".join(bytes(token["bytes"] or []) for token in tokens).decode(errors="replace")
    text = choice["message"]["content"]
    expect(said.strip() == text.strip(), f"bytes say {said!r}, content {text!r}")


CHECKS = (body, usage, max_tokens, several_choices, same_seed, stop_string, logprobs)
