"""The description of the API, made of the route table and the schemas that requests are read by.

A route says with `ctx_schema` which schema reads its body, and with `ctx_reply` what its reply
looks like, or with `ctx_reply_type` of which type it is where that is no JSON. The first line of
its handler's docstring is its summary; its framing says what refusals look like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llmplug import __version__
from llmplug.server.framing import find_framing
from llmplug.server.openapi_replies import REPLIES

if TYPE_CHECKING:
    from pydantic import BaseModel
    from sanic import Sanic
    from sanic_routing import Route

Json = dict[str, Any]

_PARAMETER = re.compile(r"<(\w+)(?::\w+)?>")
_TEXTS: Json = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_IDS: Json = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_PROMPTS: Json = {"anyOf": [*_TEXTS["anyOf"], _IDS, {"type": "array", "items": _IDS}]}
_OBJECTS: Json = {"type": "array", "items": {"type": "object"}}
_NAMED: Json = {"anyOf": [{"type": "string"}, {"type": "object"}]}
# Fields that functions of ours read, as unions would spoil the paths in pydantic's errors: what
# these take, wherever a field of the name stands.
_READ_BY_US: Mapping[str, Json] = {
    "documents": {"type": "array"},
    "input": _PROMPTS,
    "instructions": _TEXTS,
    "items": _OBJECTS,
    "messages": {**_OBJECTS, "minItems": 1},
    "prompt": _PROMPTS,
    "response_format": {"type": "object"},
    "samplers": _OBJECTS,
    "stop": _TEXTS,
    "structured_outputs": {"type": "object"},
    "system": _NAMED,
    "tool_choice": _NAMED,
    "tools": _OBJECTS,
}


def describe_api(app: Sanic[Any, Any], *, needs_key: bool) -> Json:
    """Describe every route of an application: OpenAPI 3.1."""
    schemas: dict[str, Json] = {}
    paths: dict[str, Json] = {}
    for route in sorted(app.router.routes, key=lambda route: route.path):
        path = _PARAMETER.sub(r"{\1}", f"/{route.path}")
        framing = find_framing(app.ctx.framings, f"/{route.path}")
        for method in sorted(route.methods - {"HEAD", "OPTIONS"}):
            paths.setdefault(path, {})[method.lower()] = _describe_route(
                route, method, framing.error_name, schemas
            )
    description: Json = {
        "openapi": "3.1.0",
        "info": {"title": "llmplug", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if needs_key:
        description["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        description["security"] = [{"bearer": []}, {"key": []}]
    return description


def _describe_route(route: Route, method: str, error_name: str, schemas: dict[str, Json]) -> Json:
    schema: type[BaseModel] | None = getattr(route.ctx, "schema", None)
    is_streamed = schema is not None and "stream" in schema.model_fields
    operation: Json = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}_{route.path}").strip("_"),
        "summary": (route.handler.__doc__ or "").strip().partition("\n")[0],
        "responses": {
            "200": {
                "description": "The answer.",
                "content": _describe_answer(route, schemas, is_streamed=is_streamed),
            },
            **_describe_refusals(error_name, schemas),
        },
    }
    names = _PARAMETER.findall(route.path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if schema is not None:
        media_type = getattr(route.ctx, "media_type", "application/json")
        operation["requestBody"] = {
            "required": True,
            "content": {media_type: {"schema": _add_schema(schema, schemas)}},
        }
    return operation


def _describe_answer(route: Route, schemas: dict[str, Json], *, is_streamed: bool) -> Json:
    """Say what a good answer looks like, by its type."""
    media_type: str | None = getattr(route.ctx, "reply_type", None)
    if media_type is not None:
        return {media_type: {"schema": {"type": "string"}}}
    content: Json = {"application/json": {"schema": _refer(route.ctx.reply, schemas)}}
    if is_streamed:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return content


def _describe_refusals(error_name: str, schemas: dict[str, Json]) -> Json:
    """Say what errors look like."""
    content = {"application/json": {"schema": _refer(error_name, schemas)}}
    return {
        "4XX": {"description": "The request is refused.", "content": content},
        "5XX": {"description": "The server cannot answer now.", "content": content},
    }


def _refer(name: str, schemas: dict[str, Json]) -> Json:
    """Put what a reply looks like among the components; return what refers to it."""
    schemas[name] = REPLIES[name]
    return {"$ref": f"#/components/schemas/{name}"}


def _add_schema(schema: type[BaseModel], schemas: dict[str, Json]) -> Json:
    """Put a schema and its parts among the components; return what refers to it."""
    whole = schema.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = whole.pop("$defs", {})
    for name, part in {**parts, schema.__name__: whole}.items():
        schemas[name] = {**part, "properties": dict(_fill_properties(part))}
        schemas[name]["additionalProperties"] = True  # others are listed in a header of the reply
    return {"$ref": f"#/components/schemas/{schema.__name__}"}


def _fill_properties(part: Json) -> Iterator[tuple[str, Json]]:
    """Yield the properties of a schema; those that we read ourselves with what they take."""
    required = part.get("required", ())
    for name, property_ in part.get("properties", {}).items():
        ours = _READ_BY_US.get(name)
        if ours is None or "type" in property_ or "anyOf" in property_:
            yield name, property_
        elif name in required:
            yield name, ours
        else:
            yield name, {"anyOf": [ours, {"type": "null"}]}
