"""The kernel table: the best kernel that runs here, and the reasons why the others do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmplug import KernelSpec
from llmplug.ops import REFERENCES, ComposedDecoderLayer, choose_kernels, load_kernels


def spec(
    name: str,
    priority: int = 0,
    reason: str | None = None,
    op: str = "embed",
    load: Callable[[], object] | None = None,
    needs: tuple[str, ...] = (),
) -> tuple[KernelSpec, str]:
    return KernelSpec(
        op=op,
        name=name,
        supports=lambda device, dtype: reason,
        load=load or (lambda: name),
        priority=priority,
        needs=needs,
    ), f"plugin of {name}"


def test_without_kernels_every_op_is_its_reference() -> None:
    choices = choose_kernels(REFERENCES, [], "cpu", "float32")
    assert [(choice.op, choice.kernel, choice.plugin) for choice in choices] == [
        (name, "reference" if op.compose is None else "composed", None)
        for name, op in REFERENCES.items()
    ]
    table = load_kernels(REFERENCES, [], choices)
    plain = [op for op in REFERENCES.values() if op.compose is None]
    assert all(getattr(table, op.name) is op.reference for op in plain)
    assert isinstance(table.decoder_layer, ComposedDecoderLayer)


def test_highest_priority_that_is_supported_wins() -> None:
    specs = [spec("low", 1), spec("best", 9, "it is raining"), spec("good", 5)]
    choices = {c.op: c for c in choose_kernels(REFERENCES, specs, "cpu", "float32")}
    assert (choices["embed"].kernel, choices["embed"].plugin) == ("good", "plugin of good")
    assert choices["embed"].refused == (
        ("best", "it is raining"),
        ("low", "good has a higher priority"),
    )
    assert choices["linear"].kernel == "reference"


def test_equal_priorities_are_decided_by_name_not_by_order() -> None:
    specs = [spec("b"), spec("a")]
    for order in (specs, specs[::-1]):
        (choice,) = choose_kernels({"embed": REFERENCES["embed"]}, order, "cpu", "float32")
        assert choice.kernel == "a"


def test_supports_is_asked_for_the_device_and_dtype() -> None:
    asked = []

    def supports(device: str, dtype: str) -> str | None:
        asked.append((device, dtype))
        return "no"

    kernel = KernelSpec(op="embed", name="x", supports=supports, load=lambda: None)
    choose_kernels(REFERENCES, [(kernel, "p")], "cuda", "bfloat16")
    assert asked == [("cuda", "bfloat16")]


def test_only_the_chosen_kernel_is_loaded() -> None:
    loaded: list[str] = []

    def loading(name: str) -> Callable[[], object]:
        return lambda: loaded.append(name) or name

    specs = [spec("a", 1, load=loading("a")), spec("b", 2, load=loading("b"))]
    choices = choose_kernels(REFERENCES, specs, "cpu", "float32")
    table = load_kernels(REFERENCES, specs, choices)
    assert loaded == ["b"]
    assert table.embed == "b"
    assert [(c.op, c.kernel) for c in table.choices] == [(c.op, c.kernel) for c in choices]


def test_a_kernel_that_does_not_load_gives_way_to_the_next() -> None:
    def fail() -> object:
        raise OSError("the compiler is on strike")

    specs = [spec("best", 9, load=fail), spec("good", 5)]
    table = load_kernels(REFERENCES, specs, choose_kernels(REFERENCES, specs, "cpu", "float32"))
    (choice,) = [choice for choice in table.choices if choice.op == "embed"]
    assert (choice.kernel, choice.plugin) == ("good", "plugin of good")
    assert ("best", "it cannot be loaded: the compiler is on strike") in choice.refused
    alone = [spec("best", 9, load=fail)]
    table = load_kernels(REFERENCES, alone, choose_kernels(REFERENCES, alone, "cpu", "float32"))
    assert table.embed is REFERENCES["embed"].reference


def test_unknown_op_names_the_known_ones() -> None:
    table = load_kernels(REFERENCES, [], choose_kernels(REFERENCES, [], "cpu", "float32"))
    with pytest.raises(AttributeError, match=r"'conv'.*attention.*linear"):
        table.conv  # noqa: B018 - the access is what raises


def fail() -> object:
    raise RuntimeError("no compiler")


def test_fused_kernel_is_chosen_where_its_own_parts_serve() -> None:
    specs = [
        spec("fast", op="linear"),
        spec("fast", op="decoder_layer", needs=("linear",)),
        spec("other", op="decoder_layer", needs=("attention",), priority=9),
    ]
    choices = {c.op: c for c in choose_kernels(REFERENCES, specs, "cpu", "float32")}
    assert choices["decoder_layer"].kernel == "fast"
    assert choices["decoder_layer"].refused == (
        ("other", "it builds on attention/other, and attention is served by reference"),
    )


def test_fused_kernel_gives_way_when_its_part_cannot_be_loaded() -> None:
    specs = [
        spec("fast", op="linear", load=fail),
        spec("fast", op="decoder_layer", needs=("linear",)),
    ]
    choices = choose_kernels(REFERENCES, specs, "cpu", "float32")
    table = load_kernels(REFERENCES, specs, choices)
    final = {choice.op: choice for choice in table.choices}
    assert final["decoder_layer"].kernel == "composed"
    assert final["decoder_layer"].plugin is None
    assert "linear is served by reference" in dict(final["decoder_layer"].refused)["fast"]
    assert isinstance(table.decoder_layer, ComposedDecoderLayer)
