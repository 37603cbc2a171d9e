"""Replies in Anthropic's words; `server/anthropic/reply.py` writes them."""

from __future__ import annotations

from collections.abc import Mapping

from llmplug.server.openapi_replies.shapes import (
    ANY_OBJECT,
    COUNT,
    TEXT,
    TEXT_OR_NULL,
    Json,
    make_list,
    make_object,
)

_BLOCK: Json = {
    "anyOf": [
        make_object({"type": {"const": "text"}, "text": TEXT}),
        make_object({"type": {"const": "thinking"}, "thinking": TEXT, "signature": TEXT}),
        make_object({"type": {"const": "tool_use"}, "id": TEXT, "name": TEXT, "input": ANY_OBJECT}),
    ]
}

REPLIES: Mapping[str, Json] = {
    "Message": make_object(
        {
            "id": TEXT,
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "model": TEXT,
            "content": make_list(_BLOCK),
            "stop_reason": {"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"]},
            "stop_sequence": TEXT_OR_NULL,
            "usage": make_object(
                {
                    "input_tokens": COUNT,
                    "cache_creation_input_tokens": COUNT,
                    "cache_read_input_tokens": COUNT,
                    "output_tokens": COUNT,
                }
            ),
        }
    ),
    "MessageTokens": make_object({"input_tokens": COUNT}),
}
