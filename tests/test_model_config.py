"""Reading config.json: typed, checked, and refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from llmplug import CheckpointError, ConfigReader

TYPES = {"default": "default", "linear": "linear", "yarn": "yarn"}


def test_fields_are_read_and_null_means_not_said() -> None:
    fields = ConfigReader({"a": 3, "b": 0.5, "c": True, "d": None, "e": ["x"], "zero": 0})
    assert fields.integer("a") == 3
    assert fields.integer("d", 7) == fields.integer("missing", 7) == 7
    assert fields.integer("zero", 5, minimum=0) == 0
    assert (fields.number("b"), fields.number("a")) == (0.5, 3.0)
    assert (fields.flag("c"), fields.flag("d"), fields.flag("missing", True)) == (True, False, True)
    assert (fields.words("e"), fields.words("d")) == (("x",), None)


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("integer", 0),
        ("integer", 1.0),
        ("integer", "1"),
        ("integer", True),
        ("number", 0),
        ("number", float("inf")),
        ("number", float("nan")),
        ("number", True),
        ("number", "0.5"),
        ("flag", 1),
        ("flag", "true"),
        ("words", "x"),
        ("words", [1]),
    ],
)
def test_wrong_values_are_named(method: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match="size is"):
        getattr(ConfigReader({"size": value}), method)("size")


@pytest.mark.parametrize("method", ["integer", "number"])
def test_missing_values_are_named(method: str) -> None:
    with pytest.raises(CheckpointError, match="size is missing"):
        getattr(ConfigReader({"size": None}), method)("size")


def test_refuse_unless() -> None:
    fields = ConfigReader({"act": "gelu", "none": None, "tp": True})
    fields.refuse_unless("act", ("silu", "gelu"))
    fields.refuse_unless("none", ())
    fields.refuse_unless("missing", ())
    with pytest.raises(CheckpointError, match=r"act is 'gelu'.*'silu'"):
        fields.refuse_unless("act", ("silu",))
    with pytest.raises(CheckpointError, match="tp is True"):  # True equals 1, and is not 1
        fields.refuse_unless("tp", (1,))


@pytest.mark.parametrize(
    "config",
    [
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 5e5},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_theta": 500000},
    ],
)
def test_rope_of_both_eras(config: dict[str, Any]) -> None:
    rope = ConfigReader(config).rope(TYPES, default_theta=1e4)
    assert (rope.theta, rope.rotary_share) == (5e5, 1.0)
    assert (rope.scaling["rope_type"], rope.scaling["factor"]) == ("linear", 2.0)


def test_rope_without_a_word_is_the_default() -> None:
    rope = ConfigReader({"rope_scaling": None}).rope(TYPES, default_theta=1e4)
    assert (rope.theta, rope.scaling["rope_type"]) == (1e4, "default")


@pytest.mark.parametrize(
    ("beside", "within", "expected"), [(None, None, 900), (None, 70, 70), (60, 70, 60)]
)
def test_original_context(beside: int | None, within: int | None, expected: int) -> None:
    scaling: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0}
    if within is not None:
        scaling["original_max_position_embeddings"] = within
    config = {"rope_parameters": scaling, "max_position_embeddings": 900}
    if beside is not None:
        config["original_max_position_embeddings"] = beside
    rope = ConfigReader(config).rope(TYPES, default_theta=1e4)
    assert rope.scaling["original_max_position_embeddings"] == expected


@pytest.mark.parametrize(
    "parameters",
    [{"rope_type": "dynamic"}, {"rope_type": ["x"]}, {"full": {"rope_type": "default"}}],
)
def test_rope_refuses(parameters: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="rope"):
        ConfigReader({"rope_parameters": parameters}).rope(TYPES, default_theta=1e4)
