"""Refusals, in the words of each protocol; the framings write them."""

from __future__ import annotations

from collections.abc import Mapping

from llmplug.server.openapi_replies.shapes import TEXT, TEXT_OR_NULL, Json, make_object

REPLIES: Mapping[str, Json] = {
    "Error": make_object(
        {
            "error": make_object(
                {"message": TEXT, "type": TEXT, "param": TEXT_OR_NULL, "code": TEXT_OR_NULL}
            )
        }
    ),
    "AnthropicError": make_object(
        {
            "type": {"const": "error"},
            "error": make_object({"type": TEXT, "message": TEXT}),
            "request_id": TEXT,
        }
    ),
    "CohereError": make_object({"id": TEXT, "message": TEXT}),
}
