"""The samplers that requests of the OpenAI API and its kin ask for; one file each.

Where torch is slow on a CPU, a second file, `..._cpu`, holds a faster twin in NumPy.

bias      logit_bias, repetition_penalty, presence_frequency (penalties)
scale     temperature
filter    top_k, top_p, min_p
choose    greedy, categorical
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from llmplug import SamplerSpec, hookimpl

if TYPE_CHECKING:
    import torch


class _Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LogitBiasParams(_Params):
    """Token id -> added to its logit."""

    logit_bias: dict[int, float] = {}


class RepetitionPenaltyParams(_Params):
    """Divides positive logits and multiplies negative ones of every token seen; 1 is off."""

    repetition_penalty: float = 1.0


class PresenceFrequencyParams(_Params):
    """Subtracted once, and once for each time, from tokens of the output; 0 is off."""

    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


class TemperatureParams(_Params):
    """Divides all logits; 0 is greedy."""

    temperature: float = 1.0


class TopKParams(TemperatureParams):
    """Keeps the k most probable tokens; 0 is off."""

    top_k: int = 0


class TopPParams(TemperatureParams):
    """Keeps the fewest tokens that hold this share of the probability; 1 is off."""

    top_p: float = 1.0


class MinPParams(TemperatureParams):
    """Keeps tokens at least this probable, compared with the most probable; 0 is off."""

    min_p: float = 0.0


def _make_logit_bias(vocab_size: int, device: torch.device) -> Any:
    from llmplug_standard.logit_bias import LogitBias

    return LogitBias()


def _make_repetition_penalty(vocab_size: int, device: torch.device) -> Any:
    from llmplug_standard.repetition_penalty import RepetitionPenalty

    return RepetitionPenalty()


def _make_presence_frequency(vocab_size: int, device: torch.device) -> Any:
    from llmplug_standard.presence_frequency import PresenceFrequency

    return PresenceFrequency()


def _make_temperature(vocab_size: int, device: torch.device) -> Any:
    from llmplug_standard.temperature import Temperature

    return Temperature()


def _make_top_k(vocab_size: int, device: torch.device) -> Any:
    from llmplug_standard.top_k import TopK

    return TopK()


def _make_top_p(vocab_size: int, device: torch.device) -> Any:
    if device.type == "cpu":
        from llmplug_standard import top_p_cpu

        return top_p_cpu.TopP(vocab_size)
    from llmplug_standard import top_p

    return top_p.TopP()


def _make_min_p(vocab_size: int, device: torch.device) -> Any:
    from llmplug_standard.min_p import MinP

    return MinP()


def _make_greedy(vocab_size: int, device: torch.device) -> Any:
    from llmplug_standard.greedy import Greedy

    return Greedy()


def _make_categorical(vocab_size: int, device: torch.device) -> Any:
    if device.type == "cpu":
        from llmplug_standard import categorical_cpu

        return categorical_cpu.Categorical(vocab_size)
    from llmplug_standard import categorical

    return categorical.Categorical()


@hookimpl
def llmplug_samplers() -> list[SamplerSpec]:
    """Offer them all; a greedy row needs neither temperature nor filters."""
    return [
        SamplerSpec(
            name="logit_bias",
            stage="bias",
            params=LogitBiasParams,
            is_active=lambda params: bool(params.logit_bias),
            make=_make_logit_bias,
            order=10,
        ),
        SamplerSpec(
            name="repetition_penalty",
            stage="bias",
            params=RepetitionPenaltyParams,
            is_active=lambda params: params.repetition_penalty != 1,
            make=_make_repetition_penalty,
            order=20,
        ),
        SamplerSpec(
            name="presence_frequency",
            stage="bias",
            params=PresenceFrequencyParams,
            is_active=lambda params: params.presence_penalty != 0 or params.frequency_penalty != 0,
            make=_make_presence_frequency,
            order=30,
        ),
        SamplerSpec(
            name="temperature",
            stage="scale",
            params=TemperatureParams,
            is_active=lambda params: params.temperature not in {0, 1},
            make=_make_temperature,
        ),
        SamplerSpec(
            name="top_k",
            stage="filter",
            params=TopKParams,
            is_active=lambda params: params.temperature > 0 and params.top_k > 0,
            make=_make_top_k,
            order=10,
        ),
        SamplerSpec(
            name="top_p",
            stage="filter",
            params=TopPParams,
            is_active=lambda params: params.temperature > 0 and params.top_p < 1,
            make=_make_top_p,
            order=20,
        ),
        SamplerSpec(
            name="min_p",
            stage="filter",
            params=MinPParams,
            is_active=lambda params: params.temperature > 0 and params.min_p > 0,
            make=_make_min_p,
            order=30,
        ),
        SamplerSpec(
            name="greedy",
            stage="choose",
            params=TemperatureParams,
            is_active=lambda params: params.temperature == 0,
            make=_make_greedy,
            order=10,
        ),
        SamplerSpec(
            name="categorical",
            stage="choose",
            params=TemperatureParams,
            is_active=lambda params: params.temperature > 0,
            make=_make_categorical,
            order=20,
        ),
    ]
