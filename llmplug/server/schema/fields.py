"""Each field's lot: served, refused, accepted without effect, a sampler's, or unknown.

Nothing is ignored in silence: what would change the answer and is not served is refused, and
names that nobody knows are listed in a response header.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmplug.errors import UnsupportedParameter

if TYPE_CHECKING:
    from pydantic import BaseModel

IGNORED_HEADER = "X-Llmplug-Ignored"
MAX_IGNORED_NAMES = 32
MAX_NAME_CHARS = 64

Neutral = Callable[[Any], bool]


def _is_empty(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


def _is_one_of(*values: Any) -> Neutral:
    return lambda value: value is None or value in values


# Known fields that change the answer and are not served, with the values that change nothing.
UNSERVED_EVERYWHERE: Mapping[str, Neutral] = {
    "service_tier": _is_one_of("auto", "default"),
    "store": _is_empty,
    "moderation": _is_empty,
    # Fields of other servers that clients send here too.
    "grammar": _is_empty,
    "guided_choice": _is_empty,
    "guided_grammar": _is_empty,
    "guided_json": _is_empty,
    "guided_regex": _is_empty,
    "logprob_token_ids": _is_empty,
}
UNSERVED_IN_CHAT: Mapping[str, Neutral] = {
    **UNSERVED_EVERYWHERE,
    "audio": _is_empty,
    "best_of": _is_one_of(1),
    "modalities": _is_one_of(["text"], []),
    "verbosity": _is_one_of("medium"),
    "web_search_options": lambda value: value is None,
}
# What chats and completions serve, and other ways to ask for the same do not.
SERVED_ELSEWHERE: Mapping[str, Neutral] = {
    "deadline_ms": _is_empty,
    "early_stopping": _is_empty,
    "echo": _is_empty,
    "length_penalty": _is_empty,
    "overflow": _is_one_of("clamp"),
    "prompt_logprobs": _is_empty,
    "return_token_ids": _is_empty,
    "return_tokens_as_token_ids": _is_empty,
    "timings": _is_empty,
    "truncate_prompt_tokens": _is_empty,
    "truncation_side": _is_empty,
    "use_beam_search": _is_empty,
}
UNSERVED_IN_COMPLETIONS: Mapping[str, Neutral] = {
    **UNSERVED_EVERYWHERE,
    "chat_template": _is_empty,
    "documents": _is_empty,
    "prompt_embeds": _is_empty,
    "thinking_token_budget": _is_empty,
}
_SUCCESSORS = {
    # Fields of chats in Responses.
    "logprobs": "Use 'include'.",
    "max_completion_tokens": "Use 'max_output_tokens'.",
    "messages": "Use 'input'.",
    "reasoning_effort": "Use 'reasoning.effort'.",
}
# Accepted everywhere; they change nothing that the client could see.
HARMLESS = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "user",
    }
)


@dataclass(frozen=True, slots=True)
class SplitFields:
    """A request's fields, sorted by their lot."""

    served: dict[str, Any]
    extra: dict[str, Any]  # parameters of samplers
    ignored: tuple[str, ...]


def split_fields(
    fields: Mapping[str, Any],
    schema: type[BaseModel],
    unserved: Mapping[str, Neutral],
    sampler_fields: Collection[str],
) -> SplitFields:
    """Sort `fields`; a field that an installed sampler claims is its own.

    Raises:
        UnsupportedParameter: a known field asks for something that is not served.
    """
    served: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    ignored: list[str] = []
    for name, value in fields.items():
        if name in schema.model_fields:
            served[name] = value
        elif name in sampler_fields:
            if value is not None:
                extra[name] = value
        elif name in unserved:
            if not unserved[name](value):
                advice = _SUCCESSORS.get(name, "Leave it out.")
                raise UnsupportedParameter(
                    f"'{name}' is not supported here with this value. {advice}", param=name
                )
        elif name not in HARMLESS:
            ignored.append(name)
    return SplitFields(served, extra, tuple(ignored))


def ignored_header(names: Collection[str]) -> dict[str, str]:
    """The header that lists ignored fields: bounded, and printable ASCII whatever they hold."""
    if not names:
        return {}
    shown = [
        "".join(c if c.isascii() and (c.isalnum() or c in "_-.[]") else "?" for c in name)
        for name in (name[:MAX_NAME_CHARS] for name in list(names)[:MAX_IGNORED_NAMES])
    ]
    return {IGNORED_HEADER: ", ".join(shown)}
