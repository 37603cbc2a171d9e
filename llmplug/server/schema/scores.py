"""Requests of /rerank, /score and /classify."""

from __future__ import annotations

from typing import Any

from llmplug.engine.pool_limits import MAX_TEXTS
from llmplug.errors import InvalidRequest
from llmplug.server.schema.embeddings import TextFields

# Names that others have for the two sides of /score.
_SIDES = (
    ("text_1", "text_2"),
    ("data_1", "data_2"),
    ("queries", "documents"),
    ("queries", "items"),
)


class RerankRequest(TextFields):
    """Fields of `POST /v1/rerank` that are served."""

    query: str
    documents: Any  # read_texts checks it
    top_n: int | None = None  # None and 0: all
    return_documents: bool | None = None
    use_activation: bool | None = None

    def check(self) -> None:
        """Refuse numbers that are none.

        Raises:
            InvalidRequest: `top_n` is negative.
        """
        self.check_truncation()
        if self.top_n is not None and self.top_n < 0:
            raise InvalidRequest("'top_n' must not be negative.", param="top_n")


class ScoreRequest(TextFields):
    """Fields of `POST /v1/score` that are served: one pair of names for the two sides."""

    text_1: Any = None
    text_2: Any = None
    data_1: Any = None
    data_2: Any = None
    queries: Any = None
    documents: Any = None
    items: Any = None
    use_activation: bool | None = None

    def read_pairs(self) -> list[tuple[str, str]]:
        """Return the pairs to be scored.

        Raises:
            InvalidRequest: a side is missing, or their lengths do not go together.
        """
        self.check_truncation()
        for left, right in _SIDES:
            first, second = getattr(self, left), getattr(self, right)
            if first is not None and second is not None:
                return _pair(read_texts(first, left), read_texts(second, right), left)
        names = ", or ".join(f"'{left}' and '{right}'" for left, right in _SIDES)
        raise InvalidRequest(
            f"{names} are required.", param="text_1", code="missing_required_parameter"
        )


class ClassifyRequest(TextFields):
    """Fields of `POST /classify` that are served."""

    input: Any  # read_prompts checks it
    use_activation: bool | None = None
    add_special_tokens: bool | None = None


def read_texts(raw: Any, param: str) -> list[str]:
    """Take a string, or a list of strings or of objects with a text.

    Raises:
        InvalidRequest: anything else, or nothing, or too many.
    """
    if isinstance(raw, str):
        return [raw]
    if not isinstance(raw, list) or not 0 < len(raw) <= MAX_TEXTS:
        raise InvalidRequest(
            f"'{param}' must be a text, or a list of 1 to {MAX_TEXTS} texts.", param=param
        )
    texts = []
    for i, each in enumerate(raw):
        text = each.get("text") if isinstance(each, dict) else each
        if not isinstance(text, str):
            raise InvalidRequest(
                f"'{param}[{i}]' must be a string, or an object with a text.",
                param=f"{param}[{i}]",
                code="invalid_type",
            )
        texts.append(text)
    return texts


def _pair(first: list[str], second: list[str], param: str) -> list[tuple[str, str]]:
    if len(first) == 1:
        first = first * len(second)
    if len(first) != len(second):
        raise InvalidRequest(
            f"'{param}' holds {len(first)} texts and the other side {len(second)}: one goes with "
            "many, or as many with as many.",
            param=param,
        )
    return list(zip(first, second, strict=True))
