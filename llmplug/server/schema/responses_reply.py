"""The response object, and how tokens stand in it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmplug.server.framing import MAX_MESSAGE_CHARS

if TYPE_CHECKING:
    from llmplug.server.deltas import TokenText, Usage
    from llmplug.server.errors import ErrorReply
    from llmplug.server.schema.reply import TokenNames
    from llmplug.server.schema.responses import ResponsesRequest
    from llmplug.server.schema.responses_tools import ResponseTools

Fields = dict[str, Any]


def make_id(prefix: str) -> str:
    """An id that nobody guesses: `resp_`, `msg_` and so on, and 32 hex digits."""
    return f"{prefix}_{uuid.uuid4().hex}"


def start_response(
    response_id: str, asked: ResponsesRequest, tools: ResponseTools, model: str
) -> Fields:
    """The response before anything is written: what was asked, said back."""
    form = asked.text.format if asked.text is not None else None
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": bool(asked.background),
        "completed_at": None,
        "conversation": None if asked.conversation is None else {"id": asked.conversation_id},
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": asked.max_tool_calls,
        "metadata": asked.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": asked.previous_response_id,
        "prompt_cache_key": asked.prompt_cache_key,
        "reasoning": {
            "effort": asked.reasoning.effort if asked.reasoning is not None else None,
            "summary": None,
        },
        "safety_identifier": asked.safety_identifier,
        "service_tier": "default",
        "temperature": asked.temperature,
        "text": {"format": form or {"type": "text"}, "verbosity": "medium"},
        "tool_choice": tools.choice,
        "tools": tools.shown,
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": asked.top_p,
        "truncation": asked.truncation or "disabled",
        "usage": None,
        "user": asked.user,
    }


def write_usage(usage: Usage) -> Fields:
    """Tokens, in the words of this endpoint."""
    return {
        "input_tokens": usage.prompt_tokens,
        # Prefixes are cached by themselves; nobody asks for, or pays for, a write.
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def write_error(error: ErrorReply) -> Fields:
    """The `error` of a failed response; OpenAI knows few codes."""
    codes = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
    return {
        "code": codes.get(error.status, "server_error"),
        "message": error.message[:MAX_MESSAGE_CHARS],
    }


def write_logprobs(tokens: Sequence[TokenText], names: TokenNames) -> list[Fields]:
    """Log-probabilities as a finished text has them."""
    return [
        {
            **_write_token(token.token_id, token.logprob, names),
            "top_logprobs": [_write_token(i, logprob, names) for i, logprob in token.top],
        }
        for token in tokens
    ]


def write_logprobs_of_delta(logprobs: Sequence[Mapping[str, Any]]) -> list[Fields]:
    """The same as events have them: without bytes."""
    return [
        {
            "token": each["token"],
            "logprob": each["logprob"],
            "top_logprobs": [
                {"token": top["token"], "logprob": top["logprob"]} for top in each["top_logprobs"]
            ],
        }
        for each in logprobs
    ]


def _write_token(token_id: int, logprob: float | None, names: TokenNames) -> Fields:
    return {
        "token": names.text(token_id),
        "bytes": list(names.bytes(token_id)),
        "logprob": logprob,
    }
