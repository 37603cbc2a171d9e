"""Cohere's embed request, and the forms that it has for embeddings."""

from __future__ import annotations

import base64
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from llmplug.engine.pool_limits import MAX_TEXTS
from llmplug.errors import InvalidRequest, UnsupportedParameter

EmbeddingType = Literal["float", "base64", "binary", "ubinary", "int8", "uint8"]
_BITS = frozenset({"binary", "ubinary"})
_BYTES = frozenset({"int8", "uint8"})


class CohereEmbedRequest(BaseModel):
    """Fields of `POST /v2/embed` that are served."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    model: str
    texts: list[str]
    input_type: (
        Literal["search_document", "search_query", "classification", "clustering"] | None
    ) = None
    embedding_types: list[EmbeddingType] | None = None
    output_dimension: int | None = None
    truncate: Literal["NONE", "START", "END"] | None = None
    max_tokens: int | None = None
    priority: int | None = None

    def check(self) -> None:
        """Refuse what contradicts itself, and what is not served.

        Raises:
            InvalidRequest: `param` names the field.
            UnsupportedParameter: a form that needs the range of each number, which no checkpoint
                tells.
        """
        if not 0 < len(self.texts) <= MAX_TEXTS:
            raise InvalidRequest(
                f"'texts' holds {len(self.texts)} texts; it must hold 1 to {MAX_TEXTS}.",
                param="texts",
            )
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequest("'max_tokens' must be at least 1.", param="max_tokens")
        if self.max_tokens is not None and self.truncate == "NONE":
            raise InvalidRequest(
                "'max_tokens' cuts texts, and 'truncate' NONE forbids it.", param="max_tokens"
            )
        for kind in self.kinds:
            if kind in _BYTES:
                raise UnsupportedParameter(
                    f"'embedding_types' {kind} is not served: it needs the range of every number, "
                    "and a checkpoint does not tell. Use float, base64, binary or ubinary.",
                    param="embedding_types",
                )

    @property
    def kinds(self) -> list[EmbeddingType]:
        """The forms that are asked for, each once."""
        return list(dict.fromkeys(self.embedding_types or ["float"]))


def write_embeddings(
    vectors: list[memoryview[float]], kinds: list[EmbeddingType]
) -> dict[str, list[Any]]:
    """Write each embedding in each form.

    `ubinary` has a bit for each number, 1 where it is above 0, the first in the highest bit of the
    first byte; `binary` is the same less 128.

    Raises:
        InvalidRequest: bits are asked of a width that fills no whole bytes.
    """
    width = len(vectors[0])
    if width % 8 and _BITS & set(kinds):
        raise InvalidRequest(
            f"'embedding_types' binary and ubinary need a multiple of 8 numbers, not {width}; set "
            "'output_dimension'.",
            param="embedding_types",
        )
    return {kind: [_write(vector, kind) for vector in vectors] for kind in kinds}


def _write(vector: memoryview[float], kind: EmbeddingType) -> Any:
    if kind == "float":
        return vector.tolist()
    if kind == "base64":
        return base64.b64encode(vector).decode()
    lowest = 0 if kind == "ubinary" else -128
    return [
        sum((number > 0) << (7 - place) for place, number in enumerate(vector[start : start + 8]))
        + lowest
        for start in range(0, len(vector), 8)
    ]
