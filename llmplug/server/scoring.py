"""How well two texts fit: by a model that reads both at once, or by the angle of two embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmplug.errors import UnsupportedParameter
from llmplug.server.text_input import Cut, encode_pairs, encode_texts, find_prompt
from llmplug.server.vectors import dot, make_vectors, sigmoid

if TYPE_CHECKING:
    from sanic import Request

    from llmplug.server.model_service import ModelService

Pair = tuple[str, str]


async def score_pairs(
    request: Request,
    model: ModelService,
    pairs: Sequence[Pair],
    cut: Cut,
    *,
    is_activated: bool = True,
    priority: int | None = None,
) -> list[float]:
    """Score each pair.

    Args:
        is_activated: scores of a classifier are squeezed between 0 and 1.
    Raises:
        UnsupportedParameter: the model classifies by more than one label.
        LlmplugError: the request was refused, or failed.
    """
    if model.task == "embed":
        return await _compare(request, model, pairs, cut, priority)
    prompts, type_ids = await encode_pairs(model, pairs, cut.max_tokens)
    logits = await make_vectors(
        request,
        model,
        prompts,
        type_ids=type_ids if any(map(any, type_ids)) else None,
        task="classify",
        priority=priority,
    )
    if any(len(each) != 1 for each in logits):
        raise UnsupportedParameter(
            f"The model '{model.name}' has {len(logits[0])} labels; a score needs a model with "
            "one. Use /classify.",
            param="model",
        )
    return [sigmoid(each[0]) if is_activated else each[0] for each in logits]


async def _compare(
    request: Request, model: ModelService, pairs: Sequence[Pair], cut: Cut, priority: int | None
) -> list[float]:
    """Embed each text once, and measure the angles."""
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    vectors = await make_vectors(
        request,
        model,
        await encode_texts(model, texts, cut, prompt=find_prompt(model, None)),
        is_normalised=True,
        priority=priority,
    )
    places = {text: i for i, text in enumerate(texts)}
    return [dot(vectors[places[first]], vectors[places[second]]) for first, second in pairs]
