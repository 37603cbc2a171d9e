"""What a request for beams may ask for: nothing that draws tokens, or that beams cannot follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.engine.ranges import RANGES, Range, check_range, check_whole
from llmplug.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.specs import SamplerSpec
    from llmplug.types import BeamParams, GenerateRequest, SamplingParams

MAX_WIDTH = 64
_LENGTH_PENALTY = Range(1.0, -100.0, 100.0)
# Numbers of the samplers that come after those that bias logits.
_DRAWING = ("temperature", "top_p", "top_k", "min_p")


def check_beams(
    filled: dict[str, Any], said: SamplingParams, specs: Sequence[SamplerSpec] | None
) -> None:
    """Refuse what has no meaning for beams; the model's defaults of such are dropped.

    Args:
        filled: the request's fields with the model's defaults.
        said: the fields as they came.
        specs: the engine's samplers; None: not known here.
    """
    beams = filled["beams"]
    check_whole("best_of", beams.width, 1, MAX_WIDTH)
    check_range("length_penalty", beams.length_penalty, _LENGTH_PENALTY)
    if not (isinstance(beams.early_stopping, bool) or beams.early_stopping == "never"):
        raise InvalidRequest(
            "early_stopping must be true, false or 'never'.", param="early_stopping"
        )
    for name in _DRAWING:
        # A temperature of 0 draws nothing either.
        is_said = getattr(said, name) is not None and filled[name] != RANGES[name].neutral
        if is_said and not (name == "temperature" and filled[name] == 0):
            _refuse(name)
        filled[name] = RANGES[name].neutral
    for name in ("samplers", "logprobs", "prompt_logprobs"):
        if filled[name] is not None:
            _refuse(name)
    bias_fields = {
        name for spec in specs or () if spec.stage == "bias" for name in spec.params.model_fields
    }
    for name in filled["extra"]:
        if specs is not None and name not in bias_fields:
            _refuse(name)


def check_with_beams(request: GenerateRequest, beams: BeamParams) -> None:
    """Refuse what contradicts beams in the rest of a request."""
    if request.num_sequences > beams.width:
        raise InvalidRequest(
            f"n ({request.num_sequences}) is above the {beams.width} beams.", param="n"
        )
    if request.grammar:
        _refuse("response_format")
    if request.thinking is not None:
        _refuse("thinking_token_budget")


def _refuse(name: str) -> None:
    raise InvalidRequest(f"{name} cannot be had together with beam search.", param=name)
