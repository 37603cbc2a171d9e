"""Refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.conformance.checks import NotOffered, check, expect, expect_refused

if TYPE_CHECKING:
    from llmplug.conformance.target import Target

CHAT = "/v1/chat/completions"


@check("errors")
def no_json(target: Target) -> None:
    """A body that is no JSON is a 400 in OpenAI's shape."""
    expect_refused(target.ask("POST", CHAT, b"{"), 400)


@check("errors")
def wrong_types(target: Target) -> None:
    """A value of a wrong type, or out of range, is a 400 that names the field."""
    expect_refused(target.chat(temperature="warm"), 400, param="temperature")
    expect_refused(target.chat(temperature=-1), 400, param="temperature")
    expect_refused(target.chat(messages="hello"), 400, param="messages")
    expect_refused(target.chat(n=0), 400, param="n")
    expect_refused(target.chat(top_logprobs=3), 400, param="top_logprobs")


@check("errors")
def missing_messages(target: Target) -> None:
    """A chat without messages is a 400 that says so."""
    expect_refused(target.ask("POST", CHAT, {"model": target.model}), 400, param="messages")
    expect_refused(target.chat(messages=[]), 400, param="messages")


@check("errors")
def too_long_a_prompt(target: Target) -> None:
    """A prompt longer than the context is a 400 with context_length_exceeded."""
    error = expect_refused(target.chat("word " * 400_000), 400, 413)
    expect(error.get("code") in ("context_length_exceeded", "request_too_large"), f"{error}")


@check("errors")
def wrong_media_type(target: Target) -> None:
    """A body of another media type is a 415."""
    expect_refused(target.ask("POST", CHAT, b"x=1", content_type="text/plain"), 415)


@check("errors")
def unknown_place(target: Target) -> None:
    """A path that is not there is a 404, a method that is not a 405, both in OpenAI's shape."""
    expect_refused(target.ask("POST", "/v1/no/such/place", {}), 404)
    expect_refused(target.ask("GET", CHAT), 405)


@check("errors")
def unknown_field(target: Target) -> None:
    """A field that nobody knows is refused by name or told in a header, not ignored in silence."""
    answer = target.chat(no_such_field_at_all=1)
    if answer.status == 400:
        expect_refused(answer, 400, param="no_such_field_at_all")
        return
    told = [name for name, value in answer.headers.items() if "no_such_field_at_all" in value]
    expect(told, "it is ignored, and nothing says so")


@check("errors")
def no_key(target: Target) -> None:
    """Where a key is asked for, a request without one is a 401 in OpenAI's shape."""
    if target.api_key is None:
        raise NotOffered
    expect_refused(target.ask("GET", "/v1/models", has_key=False), 401)


CHECKS = (
    no_json,
    wrong_types,
    missing_messages,
    too_long_a_prompt,
    wrong_media_type,
    unknown_place,
    unknown_field,
    no_key,
)
