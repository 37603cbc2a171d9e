"""Replies about texts that are read whole, and about their tokens; the routes write them."""

from __future__ import annotations

from collections.abc import Mapping

from llmplug.server.openapi_replies.shapes import (
    COUNT,
    COUNT_OR_NULL,
    IDS,
    NUMBER,
    TEXT,
    TEXT_OR_NULL,
    Json,
    make_list,
    make_object,
    or_null,
)

_NUMBERS = make_list(NUMBER)
_USAGE = make_object({"prompt_tokens": COUNT, "total_tokens": COUNT})
_PLACE: Json = {"index": COUNT}


def _make_results(result: Json) -> Json:
    return make_object(
        {
            "id": TEXT,
            "object": {"const": "list"},
            "created": COUNT,
            "model": TEXT,
            "data": make_list(result),
            "usage": _USAGE,
        }
    )


REPLIES: Mapping[str, Json] = {
    "EmbeddingList": make_object(
        {
            "object": {"const": "list"},
            "data": make_list(
                make_object(
                    {
                        **_PLACE,
                        "object": {"const": "embedding"},
                        "embedding": {"anyOf": [_NUMBERS, TEXT]},  # TEXT: base64
                    }
                )
            ),
            "model": TEXT,
            "usage": _USAGE,
        }
    ),
    "VectorList": _make_results(
        make_object(
            {
                **_PLACE,
                "object": {"const": "pooling"},
                "data": {"anyOf": [_NUMBERS, make_list(_NUMBERS), TEXT]},
            }
        )
    ),
    "ScoreList": _make_results(
        make_object({**_PLACE, "object": {"const": "score"}, "score": NUMBER})
    ),
    "ClassList": _make_results(
        make_object({**_PLACE, "label": TEXT, "probs": _NUMBERS, "num_classes": COUNT})
    ),
    "Ranking": make_object(
        {
            "id": TEXT,
            "model": TEXT,
            "usage": _USAGE,
            "results": make_list(
                make_object(
                    {**_PLACE, "relevance_score": NUMBER},
                    {"document": make_object({"text": TEXT})},
                )
            ),
        }
    ),
    "EmbeddingsByType": make_object(
        {
            "id": TEXT,
            "response_type": {"const": "embeddings_by_type"},
            "embeddings": make_object(
                {},
                {
                    "float": make_list(_NUMBERS),
                    "base64": make_list(TEXT),
                    "binary": make_list(make_list({"type": "integer"})),
                    "ubinary": make_list(IDS),
                },
            ),
            "texts": make_list(TEXT),
            "meta": make_object(
                {
                    "api_version": make_object({"version": TEXT}),
                    "billed_units": make_object({"input_tokens": COUNT}),
                }
            ),
        }
    ),
    "Tokens": make_object(
        {
            "count": COUNT,
            "max_model_len": COUNT_OR_NULL,
            "tokens": IDS,
            "token_strs": or_null(make_list(TEXT_OR_NULL)),
        }
    ),
    "Text": make_object({"prompt": TEXT}),
}
