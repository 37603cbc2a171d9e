"""The samplers that requests of the OpenAI API and its kin ask for; one file each.

Where torch is slow on a CPU, a second file, `..._cpu`, holds a faster twin in NumPy. On other
devices, and wherever a kernel serves the ops, three samplers of several in one stand in.

bias      logit_bias, repetition_penalty, presence_frequency; the penalties: penalise_tokens
scale     temperature
filter    top_k, top_p, min_p; together: filter_tokens
choose    greedy, categorical; either, and temperature with it: choose_tokens
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from llmplug import SamplerSpec, hookimpl

if TYPE_CHECKING:
    import torch

    from llmplug.ops import KernelTable


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


class PenaltyParams(RepetitionPenaltyParams, PresenceFrequencyParams):
    """All penalties of tokens seen."""


class FilterParams(_Params):
    """All filters."""

    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def _fuse_penalties(parts: Mapping[str, Any]) -> PenaltyParams:
    fields: dict[str, Any] = {}
    for params in parts.values():
        fields |= params.model_dump()
    return PenaltyParams(**fields)


def _fuse_filters(parts: Mapping[str, Any]) -> FilterParams:
    return FilterParams(**{name: getattr(params, name) for name, params in parts.items()})


def _fuse_choice(parts: Mapping[str, Any]) -> TemperatureParams:
    """Scale where temperature comes right before; else the logits are scaled already."""
    if "greedy" in parts:
        return TemperatureParams(temperature=0)
    scale = parts.get("temperature")
    return TemperatureParams(temperature=scale.temperature if scale else 1)


def _is_served(op: str, device: torch.device, ops: KernelTable) -> bool:
    """Whether an op beats the twins for CPUs: elsewhere, and where a kernel serves it."""
    return device.type != "cpu" or any(
        choice.op == op and choice.plugin is not None for choice in ops.choices
    )


def _make_logit_bias(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    from llmplug_standard.logit_bias import LogitBias

    return LogitBias()


def _make_repetition_penalty(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    from llmplug_standard.repetition_penalty import RepetitionPenalty

    return RepetitionPenalty()


def _make_presence_frequency(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    from llmplug_standard.presence_frequency import PresenceFrequency

    return PresenceFrequency()


def _make_temperature(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    from llmplug_standard.temperature import Temperature

    return Temperature()


def _make_top_k(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    from llmplug_standard.top_k import TopK

    return TopK()


def _make_top_p(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    if device.type == "cpu":
        from llmplug_standard import top_p_cpu

        return top_p_cpu.TopP(vocab_size)
    from llmplug_standard import top_p

    return top_p.TopP()


def _make_min_p(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    from llmplug_standard.min_p import MinP

    return MinP()


def _make_greedy(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    from llmplug_standard.greedy import Greedy

    return Greedy()


def _make_categorical(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    if device.type == "cpu":
        from llmplug_standard import categorical_cpu

        return categorical_cpu.Categorical(vocab_size)
    from llmplug_standard import categorical

    return categorical.Categorical(ops)


def _make_penalise_tokens(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    if not _is_served("penalise_tokens", device, ops):
        return None
    from llmplug_standard.penalise_tokens import PenaliseTokens

    return PenaliseTokens(ops)


def _make_filter_tokens(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    if not _is_served("filter_tokens", device, ops):
        return None
    from llmplug_standard.filter_tokens import FilterTokens

    return FilterTokens(ops)


def _make_choose_tokens(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    if not _is_served("choose_tokens", device, ops):
        return None
    from llmplug_standard.choose_tokens import ChooseTokens

    return ChooseTokens(ops)


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
            reads_history=False,
            order=10,
        ),
        SamplerSpec(
            name="repetition_penalty",
            stage="bias",
            params=RepetitionPenaltyParams,
            is_active=lambda params: params.repetition_penalty != 1,
            make=_make_repetition_penalty,
            takes_pending=True,
            order=20,
        ),
        SamplerSpec(
            name="presence_frequency",
            stage="bias",
            params=PresenceFrequencyParams,
            is_active=lambda params: params.presence_penalty != 0 or params.frequency_penalty != 0,
            make=_make_presence_frequency,
            takes_pending=True,
            order=30,
        ),
        SamplerSpec(
            name="temperature",
            stage="scale",
            params=TemperatureParams,
            is_active=lambda params: params.temperature not in {0, 1},
            make=_make_temperature,
            reads_history=False,
        ),
        SamplerSpec(
            name="top_k",
            stage="filter",
            params=TopKParams,
            is_active=lambda params: params.temperature > 0 and params.top_k > 0,
            make=_make_top_k,
            reads_history=False,
            order=10,
        ),
        SamplerSpec(
            name="top_p",
            stage="filter",
            params=TopPParams,
            is_active=lambda params: params.temperature > 0 and params.top_p < 1,
            make=_make_top_p,
            reads_history=False,
            order=20,
        ),
        SamplerSpec(
            name="min_p",
            stage="filter",
            params=MinPParams,
            is_active=lambda params: params.temperature > 0 and params.min_p > 0,
            make=_make_min_p,
            reads_history=False,
            order=30,
        ),
        SamplerSpec(
            name="greedy",
            stage="choose",
            params=TemperatureParams,
            is_active=lambda params: params.temperature == 0,
            make=_make_greedy,
            reads_history=False,
            order=10,
        ),
        SamplerSpec(
            name="categorical",
            stage="choose",
            params=TemperatureParams,
            is_active=lambda params: params.temperature > 0,
            make=_make_categorical,
            reads_history=False,
            order=20,
        ),
        SamplerSpec(
            name="penalise_tokens",
            stage="bias",
            params=PenaltyParams,
            is_active=lambda params: False,
            make=_make_penalise_tokens,
            takes_pending=True,
            order=20,
            fuses=("repetition_penalty", "presence_frequency"),
            fuse=_fuse_penalties,
        ),
        SamplerSpec(
            name="filter_tokens",
            stage="filter",
            params=FilterParams,
            is_active=lambda params: False,
            make=_make_filter_tokens,
            reads_history=False,
            order=10,
            fuses=("top_k", "top_p", "min_p"),
            fuse=_fuse_filters,
        ),
        SamplerSpec(
            name="choose_tokens",
            stage="choose",
            params=TemperatureParams,
            is_active=lambda params: False,
            make=_make_choose_tokens,
            reads_history=False,
            order=10,
            fuses=("temperature", "greedy", "categorical"),
            fuse=_fuse_choice,
        ),
    ]
