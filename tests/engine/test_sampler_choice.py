"""Which samplers a request runs, and in which order: by stage, or as it says."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
import torch
from engine.fake_model import (
    VOCAB_SIZE,
    drain,
    expected_output,
    make_engine,
    make_request,
    make_settings,
    output_of,
)  # fmt: skip
from engine.tiny_engine import SAMPLERS
from pydantic import BaseModel

from llmplug import InvalidRequest, SamplerSpec, SamplingParams, UnsupportedParameter
from llmplug.engine.limits import normalise
from llmplug.engine.sample import SamplerChain
from llmplug.engine.sequence import Sequence
from llmplug.testing.sampler_rows import CPU, OPS
from llmplug.types import FinishReason

LIMITS = dataclasses.replace(make_settings().limits, samplers=tuple(SAMPLERS))
CHAIN = SamplerChain([s for s in SAMPLERS if not s.fuses], VOCAB_SIZE, CPU, OPS)


def check(**sampling) -> SamplingParams:
    request = msgspec.structs.replace(make_request("a", [1]), sampling=SamplingParams(**sampling))
    once = normalise(request, LIMITS)
    assert normalise(once, LIMITS) == once
    return once.sampling


def names_of(sampling: SamplingParams, chain: SamplerChain = CHAIN) -> list[str]:
    return [chain.specs[place].name for place, _ in chain.select(sampling)]


def refused(**sampling) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        check(**sampling)
    return caught.value


def test_without_a_list_they_run_by_stage() -> None:
    asked = check(
        temperature=0.5, top_k=5, min_p=0.1, repetition_penalty=1.2,
        extra={"xtc_probability": 0.5, "typical_p": 0.9, "dry_multiplier": 1, "top_n_sigma": 1.0},
    )  # fmt: skip
    assert names_of(asked) == [
        "repetition_penalty", "dry", "temperature", "top_n_sigma", "top_k", "typical_p", "min_p",
        "xtc", "categorical",
    ]  # fmt: skip


def test_a_list_says_which_run_in_which_order() -> None:
    asked = check(
        temperature=0.5,
        samplers=(
            {"name": "xtc", "threshold": 0.2, "probability": 1.0},
            "temperature",
            {"name": "top_p", "top_p": 0.9},
            {"name": "top_k"},  # k is not said: it changes nothing
            {"name": "temperature", "temperature": 2.0},
        ),
    )
    assert names_of(asked) == ["xtc", "temperature", "top_p", "temperature", "categorical"]
    params = [params for _, params in CHAIN.select(asked)]
    assert params[0].xtc_threshold == 0.2
    assert [params[1].temperature, params[3].temperature] == [0.5, 2.0]


def test_the_last_may_choose_and_else_the_request_s_own_does() -> None:
    mirostat = {"name": "mirostat", "mirostat": 2, "tau": 3.0}
    assert names_of(check(samplers=[mirostat])) == ["mirostat"]
    assert names_of(check(samplers=[])) == ["categorical"]
    assert names_of(check(samplers=[], temperature=0.0)) == ["greedy"]
    greedy = {"name": "temperature", "temperature": 0}
    assert names_of(check(samplers=["top_k", greedy], top_k=3)) == ["top_k", "greedy"]
    assert names_of(check(samplers=["top_k"], extra={"mirostat": 1})) == ["mirostat"]
    assert refused(samplers=[mirostat, "top_p"]).param == "samplers[0]"


@pytest.mark.parametrize(
    ("samplers", "param"),
    [
        ("top_p", "samplers"),
        ({"name": "top_p"}, "samplers"),
        ([1], "samplers[0]"),
        ([{"top_p": 0.5}], "samplers[0]"),
        (["top_p", {"name": 3}], "samplers[1]"),
        (["top_pp"], "samplers[0].name"),
        (["choose_tokens"], "samplers[0].name"),  # it stands for others; nobody asks for it
        (["min_p", {"name": "xtc", "threshold": 1.5}], "samplers[1].threshold"),
        (["min_p", {"name": "xtc", "xtc_threshold": "x"}], "samplers[1].xtc_threshold"),
        ([{"name": "xtc", "threshold": 0.1, "xtc_threshold": 0.1}], "samplers[0].xtc_threshold"),
        ([{"name": "xtc", "treshold": 0.1}], "samplers[0].treshold"),
        ([{"name": "top_p", "top_p": 0}], "samplers[0].top_p"),
        ([{"name": "top_p", "top_p": float("nan")}], "samplers[0].top_p"),
        ([{"name": "top_k", "top_k": 1.5}], "samplers[0].top_k"),
        ([{"name": "logit_bias", "logit_bias": {"9999": 1}}], "samplers[0].logit_bias"),
        (["top_p"] * 33, "samplers"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(samplers, param) -> None:
    assert refused(samplers=samplers).param == param


def test_biases_of_a_list_come_with_the_keys_of_json() -> None:
    asked = check(samplers=[{"name": "logit_bias", "logit_bias": {"7": 2}}])
    ((_, params), _) = CHAIN.select(asked)
    assert params.logit_bias == {7: 2.0}


def test_a_field_whose_sampler_is_not_listed_is_refused_but_a_default_is_dropped() -> None:
    assert refused(samplers=["top_p"], top_k=5).param == "top_k"
    assert refused(samplers=["top_p"], logit_bias={3: 1.0}).param == "logit_bias"
    assert refused(samplers=["top_p"], extra={"typical_p": 0.5}).param == "typical_p"
    defaults = {"top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1}
    limits = dataclasses.replace(LIMITS, sampling_defaults=defaults)
    request = make_request("a", [1], samplers=("top_p",), temperature=1.0)
    sampling = normalise(request, limits).sampling
    assert (sampling.top_k, sampling.top_p, sampling.repetition_penalty) == (0, 0.8, 1.0)


class _Params(BaseModel):
    power: float = 1.0


class _Pressing:
    """Doubles or squares: which comes first matters."""

    def __init__(self, edit) -> None:
        self._edit = edit

    def apply(self, logits_RV, rows) -> None:
        self._edit(logits_RV)


def press(name: str, edit, order: int) -> SamplerSpec:
    return SamplerSpec(
        name=name, stage="scale", params=_Params, is_active=lambda params: params.power > 1,
        make=lambda vocab_size, device, ops: _Pressing(edit), order=order,
    )  # fmt: skip


class _Recorder:
    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def choose(self, logits_RV, rows):
        self.seen = logits_RV.tolist()
        return logits_RV.argmax(-1)


def test_rows_of_several_orders_share_a_batch() -> None:
    recorder = _Recorder()
    specs = [
        press("double", lambda x: x.mul_(2), 1),
        press("square", lambda x: x.square_(), 2),
        SamplerSpec(
            name="record", stage="choose", params=_Params, is_active=lambda params: True,
            make=lambda vocab_size, device, ops: recorder,
        ),
    ]  # fmt: skip
    chain = SamplerChain(specs, 3, CPU, OPS)
    orders = [None, ["square", "double"], ["double", "double"], ["square"], [], None]
    sequences = []
    for order in orders:
        samplers = None if order is None else [{"name": name, "power": 2.0} for name in order]
        filled = {**msgspec.structs.asdict(SamplingParams()), "extra": {"power": 2.0}}
        sampling = SamplingParams(**{**filled, "samplers": samplers})
        picked = chain.select(sampling)
        sequence = Sequence(
            make_request("a", [1]), 0, seed=0, eos_token_ids=frozenset(), arrival=0, samplers=picked
        )
        sequences.append(sequence)
    logits = torch.tensor([[3.0, 1.0, 2.0]]).repeat(6, 1)
    choices = chain.sample(logits, sequences, lambda: None)
    assert [choice.token_id for choice in choices] == [0] * 6
    assert [row[0] for row in recorder.seen] == [36.0, 18.0, 12.0, 9.0, 3.0, 36.0]


def test_an_unknown_temperature_is_said() -> None:
    chain = SamplerChain([s for s in SAMPLERS if s.stage != "choose"], VOCAB_SIZE, CPU, OPS)
    with pytest.raises(UnsupportedParameter) as caught:
        chain.select(check(temperature=0.5))
    assert caught.value.param == "temperature"


# --- masks --------------------------------------------------------------------------------------
def test_only_allowed_tokens_are_chosen() -> None:
    engine = make_engine()
    allowed = (3, 50, 77)
    for i in range(3):
        engine.add(make_request(str(i), [i, 9], allowed_token_ids=allowed, temperature=float(i)))
    engine.add(make_request("free", [1, 2]))
    found = drain(engine)
    for i in range(3):
        assert set(output_of(found[str(i), 0])) <= set(allowed)
    assert output_of(found["free", 0]) == expected_output([1, 2], 8)


def test_bad_words_are_not_said() -> None:
    wanted = expected_output([1, 2], 8)
    engine = make_engine()
    engine.add(make_request("one", [1, 2], bad_words=((wanted[0],),)))
    engine.add(make_request("two", [1, 2], bad_words=(tuple(wanted[2:4]), tuple(wanted[:2][::-1]))))
    engine.add(make_request("long", [1, 2], bad_words=(tuple(wanted),)))
    found = {name: output_of(deltas) for (name, _), deltas in drain(engine).items()}
    assert wanted[0] not in found["one"]
    assert found["two"][:3] == wanted[:3]
    assert found["two"][3] != wanted[3]
    assert found["long"][:7] == wanted[:7]
    assert found["long"][7] != wanted[7]


def test_a_row_whose_every_token_is_forbidden_ends_alone() -> None:
    engine = make_engine()
    engine.add(make_request("none", [1], allowed_token_ids=(5,), bad_words=((5,),)))
    engine.add(make_request("good", [1, 2]))
    found = drain(engine)
    assert found["none", 0][-1].finish_reason is FinishReason.ERROR
    error = found["none", 0][-1].error
    assert error is not None
    assert (error.kind, error.param) == ("InvalidRequest", "allowed_token_ids")
    assert output_of(found["good", 0]) == expected_output([1, 2], 8)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"allowed_token_ids": (97,)}, "allowed_token_ids"),
        ({"allowed_token_ids": 5}, "allowed_token_ids"),
        ({"bad_words": ("text",)}, "bad_words"),
        ({"bad_words": ((),)}, "bad_words"),
        ({"bad_words": ((-1,),)}, "bad_words"),
        ({"bad_words": ((1,),) * 1025}, "bad_words"),
    ],
)
def test_bounds_of_masks(fields, param) -> None:
    assert refused(**fields).param == param
