"""Every field that OpenAI's client can send has a lot: none is ignored by oversight."""

from __future__ import annotations

import pytest
from openai.types import completion_create_params as completions_params
from openai.types.chat import completion_create_params as chat_params
from pydantic import BaseModel

from llmplug.server.schema.chat import ChatRequest
from llmplug.server.schema.completions import CompletionsRequest
from llmplug.server.schema.fields import (
    HARMLESS,
    UNSERVED_IN_CHAT,
    UNSERVED_IN_COMPLETIONS,
    Neutral,
    ignored_header,
    split_fields,
)
from llmplug.types import SamplingParams

CASES = [
    (chat_params.CompletionCreateParamsBase, ChatRequest, UNSERVED_IN_CHAT),
    (completions_params.CompletionCreateParamsBase, CompletionsRequest, UNSERVED_IN_COMPLETIONS),
]


@pytest.mark.parametrize(("params", "schema", "unserved"), CASES)
def test_every_openai_field_is_known(
    params: type, schema: type[BaseModel], unserved: dict[str, Neutral]
) -> None:
    names = set(params.__annotations__) | {"stream"}
    assert names - set(schema.model_fields) - set(unserved) - HARMLESS == set()
    split = split_fields(dict.fromkeys(names), schema, unserved, ())
    assert split.ignored == ()
    assert not set(schema.model_fields) & (set(unserved) | HARMLESS)


@pytest.mark.parametrize("schema", [ChatRequest, CompletionsRequest])
def test_every_sampling_parameter_can_be_sent(schema: type[BaseModel]) -> None:
    # From unclaimed fields; from `echo`; from `use_beam_search`.
    made_by_us = {"extra", "beams"}
    assert set(SamplingParams.__struct_fields__) - made_by_us - set(schema.model_fields) == set()


def test_a_sampler_may_claim_any_name_but_a_served_one() -> None:
    fields = {"mirostat_tau": 5, "guided_regex": "x", "temperature": 1, "dry": None, "other": 0}
    split = split_fields(
        fields,
        ChatRequest,
        UNSERVED_IN_CHAT,
        {"mirostat_tau", "guided_regex", "temperature", "dry"},
    )
    assert split.extra == {"mirostat_tau": 5, "guided_regex": "x"}
    assert split.served == {"temperature": 1}
    assert split.ignored == ("other",)


def test_ignored_header_is_safe_and_bounded() -> None:
    assert ignored_header([]) == {}
    (value,) = ignored_header(
        ["a\r\nSet-Cookie: x", "é", "b" * 1000, *map(str, range(99))]
    ).values()
    assert value.isascii()
    assert value.isprintable()
    assert len(value) < 4000
