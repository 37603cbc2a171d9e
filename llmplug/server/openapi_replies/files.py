"""Replies about files and batches; `server/batches/objects.py` writes them."""

from __future__ import annotations

from collections.abc import Mapping

from llmplug.server.openapi_replies.shapes import (
    COUNT,
    COUNT_OR_NULL,
    METADATA,
    TEXT,
    TEXT_OR_NULL,
    Json,
    make_deletion,
    make_list,
    make_object,
    make_page,
    or_null,
)

_FILE = make_object(
    {
        "id": TEXT,
        "object": {"const": "file"},
        "bytes": COUNT,
        "created_at": COUNT,
        "expires_at": COUNT,
        "filename": TEXT,
        "purpose": {"enum": ["batch", "batch_output"]},
        "status": {"const": "processed"},
    }
)
_PROBLEM = make_object(
    {"code": TEXT, "line": COUNT_OR_NULL, "message": TEXT, "param": TEXT_OR_NULL}
)
_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
_BATCH = make_object(
    {
        "id": TEXT,
        "object": {"const": "batch"},
        "endpoint": TEXT,
        "errors": or_null(make_object({"object": {"const": "list"}, "data": make_list(_PROBLEM)})),
        "input_file_id": TEXT,
        "completion_window": {"const": "24h"},
        "status": {"enum": ["validating", *_TIMES]},
        "output_file_id": TEXT_OR_NULL,
        "error_file_id": TEXT_OR_NULL,
        "created_at": COUNT,
        "expires_at": COUNT,
        **{f"{status}_at": COUNT_OR_NULL for status in _TIMES},
        "request_counts": make_object({"total": COUNT, "completed": COUNT, "failed": COUNT}),
        "metadata": or_null(METADATA),
    }
)

REPLIES: Mapping[str, Json] = {
    "File": _FILE,
    "FilePage": make_page(_FILE),
    "DeletedFile": make_deletion("file"),
    "Batch": _BATCH,
    "BatchPage": make_page(_BATCH),
}
