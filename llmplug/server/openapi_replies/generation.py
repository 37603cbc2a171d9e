"""Replies of chats and completions; `schema/chat_reply.py` and its neighbour write them."""

from __future__ import annotations

from collections.abc import Mapping

from llmplug.server.openapi_replies.shapes import (
    COUNT,
    IDS,
    NULL,
    NUMBER,
    NUMBER_OR_NULL,
    TEXT,
    TEXT_OR_NULL,
    Json,
    make_list,
    make_map,
    make_object,
    or_null,
)

_PROMPT_LOGPROB = make_object({"logprob": NUMBER_OR_NULL, "rank": COUNT, "decoded_token": TEXT})
_PROMPT: Json = {
    "prompt_token_ids": IDS,
    "prompt_logprobs": make_list(or_null(make_map(_PROMPT_LOGPROB))),
}
_CHOICE: Json = {"stop_reason": {"type": ["string", "integer"]}, "token_ids": IDS}
_USAGE = make_object(
    {
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "total_tokens": COUNT,
        "prompt_tokens_details": make_object({"cached_tokens": COUNT}),
        "completion_tokens_details": make_object({"reasoning_tokens": COUNT}),
    }
)
_TIMES = ("queue", "template", "grammar", "prefill", "decode", "total")
_TIMINGS = make_object(
    {
        **{f"{name}_ms": NUMBER_OR_NULL for name in _TIMES},
        "tokens_per_second": NUMBER_OR_NULL,
        "cached_tokens": COUNT,
    }
)
_FUNCTION = make_object({"name": TEXT, "arguments": TEXT})
_CALL = make_object({"id": TEXT, "type": {"const": "function"}, "function": _FUNCTION})
_MESSAGE = make_object(
    {"role": {"const": "assistant"}, "content": TEXT_OR_NULL, "refusal": NULL},
    {
        "reasoning_content": TEXT,
        "reasoning": TEXT,
        "tool_calls": make_list(_CALL),
        "function_call": _FUNCTION,
    },
)
_TOKEN: Json = {"token": TEXT, "logprob": NUMBER_OR_NULL, "bytes": IDS}
_CHAT_LOGPROBS = make_object(
    {
        "content": make_list(
            make_object({**_TOKEN, "top_logprobs": make_list(make_object(_TOKEN))})
        ),
        "refusal": NULL,
    }
)
_TEXT_LOGPROBS = make_object(
    {
        "tokens": make_list(TEXT),
        "token_logprobs": make_list(NUMBER_OR_NULL),
        "top_logprobs": make_list(or_null(make_map(NUMBER))),
        "text_offset": IDS,
    }
)


def _make_reply(kind: str, choice: Json, optional: Json) -> Json:
    return make_object(
        {
            "id": TEXT,
            "object": {"const": kind},
            "created": COUNT,
            "model": TEXT,
            "system_fingerprint": TEXT,
            "choices": make_list(choice),
            "usage": _USAGE,
        },
        {**optional, "timings": _TIMINGS},
    )


REPLIES: Mapping[str, Json] = {
    "ChatCompletion": _make_reply(
        "chat.completion",
        make_object(
            {
                "index": COUNT,
                "message": _MESSAGE,
                "logprobs": or_null(_CHAT_LOGPROBS),
                "finish_reason": {"enum": ["stop", "length", "tool_calls", "function_call"]},
            },
            _CHOICE,
        ),
        _PROMPT,
    ),
    "Completion": _make_reply(
        "text_completion",
        make_object(
            {
                "index": COUNT,
                "text": TEXT,
                "logprobs": or_null(_TEXT_LOGPROBS),
                "finish_reason": {"enum": ["stop", "length"]},
            },
            {**_CHOICE, **_PROMPT},
        ),
        {},
    ),
}
