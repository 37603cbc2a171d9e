"""What replies look like, for the description of the API; their encoders stand in `schema/`.

`tests/server/test_description.py` holds replies against these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_TEXT_OR_NULL: Json = {"type": ["string", "null"]}
_COUNT: Json = {"type": "integer", "minimum": 0}
_IDS: Json = {"type": "array", "items": _COUNT}
_LOGPROBS: Json = {"type": ["object", "null"]}


def _make(required: Json, optional: Json | None = None) -> Json:
    """A JSON object with these properties."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


def _list(item: Json) -> Json:
    return {"type": "array", "items": item}


_PROMPT: Json = {"prompt_token_ids": _IDS, "prompt_logprobs": _list({"type": ["object", "null"]})}
_CHOICE: Json = {"stop_reason": {"type": ["string", "integer"]}, "token_ids": _IDS}
_USAGE = _make(
    {
        "prompt_tokens": _COUNT,
        "completion_tokens": _COUNT,
        "total_tokens": _COUNT,
        "prompt_tokens_details": _make({"cached_tokens": _COUNT}),
        "completion_tokens_details": _make({"reasoning_tokens": _COUNT}),
    }
)
_TIMES = ("queue", "template", "grammar", "prefill", "decode", "total")
_TIMINGS = _make(
    {
        **{f"{name}_ms": {"type": ["number", "null"]} for name in _TIMES},
        "tokens_per_second": {"type": ["number", "null"]},
        "cached_tokens": _COUNT,
    }
)
_CALL = _make(
    {
        "id": _TEXT,
        "type": {"const": "function"},
        "function": _make({"name": _TEXT, "arguments": _TEXT}),
    }
)
_MESSAGE = _make(
    {"role": {"const": "assistant"}, "content": _TEXT_OR_NULL, "refusal": {"type": "null"}},
    {"reasoning_content": _TEXT, "reasoning": _TEXT, "tool_calls": _list(_CALL)},
)


def _make_reply(kind: str, choice: Json, optional: Json) -> Json:
    return _make(
        {
            "id": _TEXT,
            "object": {"const": kind},
            "created": _COUNT,
            "model": _TEXT,
            "system_fingerprint": _TEXT,
            "choices": _list(choice),
            "usage": _USAGE,
        },
        {**optional, "timings": _TIMINGS},
    )


# By the name that a route gives as its `ctx_reply`.
REPLIES: Mapping[str, Json] = {
    "ChatCompletion": _make_reply(
        "chat.completion",
        _make(
            {
                "index": _COUNT,
                "message": _MESSAGE,
                "logprobs": _LOGPROBS,
                "finish_reason": {"enum": ["stop", "length", "tool_calls"]},
            },
            _CHOICE,
        ),
        _PROMPT,
    ),
    "Completion": _make_reply(
        "text_completion",
        _make(
            {
                "index": _COUNT,
                "text": _TEXT,
                "logprobs": _LOGPROBS,
                "finish_reason": {"enum": ["stop", "length"]},
            },
            {**_CHOICE, **_PROMPT},
        ),
        {},
    ),
    "ModelList": _make({"object": {"const": "list"}, "data": _list({"type": "object"})}),
}
