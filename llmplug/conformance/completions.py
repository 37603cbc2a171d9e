"""Completions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.conformance.checks import check, expect, expect_offered, expect_ok

if TYPE_CHECKING:
    from llmplug.conformance.target import Target


@check("completions")
def body(target: Target) -> None:
    """A reply has a text, a finish_reason and usage."""
    reply = expect_offered(target.complete())
    expect(reply.get("object") == "text_completion", f"object is {reply.get('object')!r}")
    (choice,) = reply["choices"]
    expect(isinstance(choice.get("text"), str), f"text is {choice.get('text')!r}")
    expect(choice.get("finish_reason") in ("stop", "length"), f"{choice}")
    usage = reply.get("usage") or {}
    total = usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)
    expect(usage.get("total_tokens") == total > 0, f"usage is {usage}")


@check("completions")
def several_prompts(target: Target) -> None:
    """A list of prompts, as texts or as token ids, gives a choice each, in order."""
    expect_offered(target.complete())
    for prompts in (["One", "Two"], [[1, 2, 3], [4, 5]]):
        reply = expect_ok(target.complete(prompts))
        indexes = [choice["index"] for choice in reply["choices"]]
        expect(sorted(indexes) == [0, 1], f"indexes are {indexes} for {prompts}")


@check("completions")
def echo_and_logprobs(target: Target) -> None:
    """Echo repeats the prompt; logprobs cover it, and the first token has none."""
    prompt = "Once upon a time"
    expect_offered(target.complete())
    choice = expect_ok(target.complete(prompt, echo=True, logprobs=1, temperature=0))["choices"][0]
    expect(choice["text"].startswith(prompt), f"text is {choice['text']!r}")
    logprobs = choice["logprobs"]
    lengths = {len(logprobs[name]) for name in ("tokens", "token_logprobs", "text_offset")}
    expect(len(lengths) == 1, f"lists of different lengths: {lengths}")
    expect(logprobs["token_logprobs"][0] is None, f"{logprobs['token_logprobs'][:2]}")
    expect(all(each <= 0 for each in logprobs["token_logprobs"][1:]), "a logprob above 0")


CHECKS = (body, several_prompts, echo_and_logprobs)
