"""Replies of the Responses API and of conversations; `server/responses/` writes them."""

from __future__ import annotations

from collections.abc import Mapping

from llmplug.server.openapi_replies.shapes import (
    ANY_OBJECT,
    COUNT,
    COUNT_OR_NULL,
    FLAG,
    IDS,
    METADATA,
    NULL,
    NUMBER,
    NUMBER_OR_NULL,
    TEXT,
    TEXT_OR_NULL,
    Json,
    make_deletion,
    make_list,
    make_object,
    make_page,
    or_null,
)

_TOKEN: Json = {"token": TEXT, "logprob": NUMBER, "bytes": IDS}
_OUTPUT_TEXT = make_object(
    {
        "type": {"const": "output_text"},
        "text": TEXT,
        "annotations": make_list(ANY_OBJECT),
        "logprobs": make_list(
            make_object({**_TOKEN, "top_logprobs": make_list(make_object(_TOKEN))})
        ),
    }
)
_STATUS: Json = {"status": {"enum": ["in_progress", "completed", "incomplete"]}}


def _make_text(kind: str) -> Json:
    return make_object({"type": {"const": kind}, "text": TEXT})


def _make_item(kind: str, fields: Json, optional: Json | None = None) -> Json:
    return make_object({"id": TEXT, "type": {"const": kind}, **fields}, optional)


def _make_answer(kind: str, optional: Json | None = None) -> Json:
    """What a tool said."""
    output = {"anyOf": [TEXT, make_list(_make_text("input_text"))]}
    return _make_item(kind, {**_STATUS, "call_id": TEXT, "output": output}, optional)


_OUTPUT_MESSAGE = _make_item(
    "message",
    {**_STATUS, "role": {"const": "assistant"}, "content": make_list(_OUTPUT_TEXT)},
    {"phase": {"enum": ["commentary", "final_answer"]}},
)
_INPUT_MESSAGE = _make_item(
    "message",
    {
        **_STATUS,
        "role": {"enum": ["user", "system", "developer"]},
        "content": make_list(_make_text("input_text")),
    },
)
_REASONING = _make_item(
    "reasoning",
    {
        **_STATUS,
        "summary": make_list(_make_text("summary_text")),
        "content": make_list(_make_text("reasoning_text")),
    },
)
_FUNCTION_CALL = _make_item(
    "function_call", {**_STATUS, "call_id": TEXT, "name": TEXT, "arguments": TEXT}
)
_CUSTOM_CALL: Json = {"call_id": TEXT, "name": TEXT, "input": TEXT}
_COMPACTION = _make_item("compaction", {"encrypted_content": TEXT})
_OUTPUT_ITEM: Json = {
    "anyOf": [
        _OUTPUT_MESSAGE,
        _REASONING,
        _FUNCTION_CALL,
        _make_item("custom_tool_call", _CUSTOM_CALL),  # its type has no status in answers
    ]
}
_ITEM: Json = {
    "anyOf": [
        _INPUT_MESSAGE,
        _OUTPUT_MESSAGE,
        _REASONING,
        _FUNCTION_CALL,
        _make_answer("function_call_output"),
        _make_item("custom_tool_call", {**_STATUS, **_CUSTOM_CALL}),
        _make_answer("custom_tool_call_output"),
        _COMPACTION,
    ]
}
_USAGE = make_object(
    {
        "input_tokens": COUNT,
        "input_tokens_details": make_object({"cached_tokens": COUNT, "cache_write_tokens": COUNT}),
        "output_tokens": COUNT,
        "output_tokens_details": make_object({"reasoning_tokens": COUNT}),
        "total_tokens": COUNT,
    }
)
_RESPONSE = make_object(
    {
        "id": TEXT,
        "object": {"const": "response"},
        "created_at": COUNT,
        "status": {
            "enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
        },
        "background": FLAG,
        "completed_at": COUNT_OR_NULL,
        "conversation": or_null(make_object({"id": TEXT})),
        "error": or_null(make_object({"code": TEXT, "message": TEXT})),
        "incomplete_details": or_null(make_object({"reason": TEXT})),
        "instructions": TEXT_OR_NULL,
        "max_output_tokens": COUNT_OR_NULL,
        "max_tool_calls": COUNT_OR_NULL,
        "metadata": METADATA,
        "model": TEXT,
        "output": make_list(_OUTPUT_ITEM),
        "parallel_tool_calls": FLAG,
        "previous_response_id": TEXT_OR_NULL,
        "prompt_cache_key": TEXT_OR_NULL,
        "reasoning": make_object({"effort": TEXT_OR_NULL, "summary": NULL}),
        "safety_identifier": TEXT_OR_NULL,
        "service_tier": {"const": "default"},
        "temperature": NUMBER_OR_NULL,
        "text": make_object({"format": ANY_OBJECT, "verbosity": {"const": "medium"}}),
        "tool_choice": {"anyOf": [TEXT, ANY_OBJECT]},
        "tools": make_list(ANY_OBJECT),
        "top_logprobs": COUNT,
        "top_p": NUMBER_OR_NULL,
        "truncation": {"enum": ["auto", "disabled"]},
        "usage": or_null(_USAGE),
        "user": TEXT_OR_NULL,
    }
)

REPLIES: Mapping[str, Json] = {
    "Response": _RESPONSE,
    "Compaction": make_object(
        {
            "id": TEXT,
            "object": {"const": "response.compaction"},
            "created_at": COUNT,
            "output": make_list({"anyOf": [_INPUT_MESSAGE, _COMPACTION]}),
            "usage": _USAGE,
        }
    ),
    "DeletedResponse": make_deletion("response"),
    "InputTokens": make_object(
        {"object": {"const": "response.input_tokens"}, "input_tokens": COUNT}
    ),
    "Item": _ITEM,
    "ItemPage": make_page(_ITEM),
    "Conversation": make_object(
        {
            "id": TEXT,
            "object": {"const": "conversation"},
            "created_at": COUNT,
            "metadata": METADATA,
        }
    ),
    "DeletedConversation": make_deletion("conversation.deleted"),
}
