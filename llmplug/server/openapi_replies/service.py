"""Replies about the server itself: its models, its samplers, how it is."""

from __future__ import annotations

from collections.abc import Mapping

from llmplug.server.openapi_replies.shapes import (
    ANY_OBJECT,
    COUNT,
    NUMBER,
    TEXT,
    Json,
    make_list,
    make_object,
)

_MODEL: Json = {
    **make_object(
        {
            "id": TEXT,
            "object": {"const": "model"},
            "created": COUNT,
            "owned_by": TEXT,
            "state": TEXT,
        },
        {"aliases": make_list(TEXT), "task": TEXT, "max_model_len": COUNT},
    ),
    "additionalProperties": True,  # what its checkpoint tells
}
_SAMPLER = make_object(
    {
        "object": {"const": "sampler"},
        "name": TEXT,
        "stage": TEXT,
        "order": NUMBER,
        "plugin": TEXT,
        "neutral": ANY_OBJECT,
        "schema": ANY_OBJECT,
    }
)
_PROGRESS = {"stage": TEXT, "done": NUMBER, "total": NUMBER, "stalled_s": NUMBER}
_REPLICA = make_object({"replica": NUMBER, "state": TEXT}, _PROGRESS)
_STATE = make_object(
    {"model": TEXT, "state": TEXT},
    {
        **_PROGRESS,
        "warnings": make_list(TEXT),
        "num_ready": NUMBER,
        "replicas": make_list(_REPLICA),
    },
)


def _make_whole_list(item: Json) -> Json:
    return make_object({"object": {"const": "list"}, "data": make_list(item)})


REPLIES: Mapping[str, Json] = {
    "Model": _MODEL,
    "ModelList": _make_whole_list(_MODEL),
    "SamplerList": _make_whole_list(_SAMPLER),
    "Life": make_object({"status": {"const": "live"}}),
    "Health": make_object(
        {"status": {"enum": ["ready", "not ready", "draining"]}, "models": make_list(_STATE)},
        {"problems": make_list(TEXT)},
    ),
    "Version": make_object({"version": TEXT}),
    "Description": ANY_OBJECT,
}
