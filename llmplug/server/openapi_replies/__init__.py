"""What replies look like, for the description of the API: JSON schemas, a family a file.

`tests/server/test_every_reply.py` holds replies of every route against these.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmplug.server.openapi_replies import (
    errors,
    files,
    generation,
    messages,
    responses,
    service,
    texts,
)
from llmplug.server.openapi_replies.shapes import Json

_FAMILIES = (errors, files, generation, messages, responses, service, texts)
# By the name that a route gives as its `ctx_reply`, or a framing as its `error_name`.
REPLIES: Mapping[str, Json] = {
    name: schema for family in _FAMILIES for name, schema in family.REPLIES.items()
}

__all__ = ["REPLIES", "Json"]
