"""Reading config.json: for model plugins, which refuse what they do not support.

A setting that changes the result is never ignored: it is read, or it is refused with a message
that names it. Nothing here imports torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmplug.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class RopeSettings:
    """How a config wants positions rotated; the arguments of `ops.make_rope_table`.

    Attributes:
        theta: base of the frequencies.
        scaling: settings with a `rope_type` of `make_rope_table`.
        rotary_share: part of a head that is rotated, (0, 1].
    """

    theta: float
    scaling: Mapping[str, Any]
    rotary_share: float


class ConfigReader:
    """The fields of a config.json, typed and checked; every error is a CheckpointError."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def integer(self, name: str, default: int | None = None, *, minimum: int = 1) -> int:
        """Read a whole number, at least `minimum`."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self._wrong(name, f"a whole number of {minimum} or more")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Read a finite number above 0."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(name, "a number")
        if not (math.isfinite(value) and value > 0):
            raise self._wrong(name, "a number above 0")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """Read true or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def words(self, name: str) -> tuple[str, ...] | None:
        """Read a list of strings; None where the config has none."""
        value = self._config.get(name)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
            raise self._wrong(name, "a list of strings")
        return tuple(value)

    def refuse_unless(self, name: str, supported: Sequence[Any]) -> None:
        """Refuse the checkpoint if a field is there, is not null and has another value."""
        value = self._config.get(name)
        if value is not None and not any(
            value == word and isinstance(value, bool) == isinstance(word, bool)
            for word in supported
        ):
            raise self._wrong(
                name, " or ".join(repr(word) for word in supported) or "only its absence"
            )

    def rope(self, types: Mapping[str, str], *, default_theta: float) -> RopeSettings:
        """Read how positions are rotated, from `rope_parameters` or from the older fields.

        Args:
            types: rope types that the model supports: the config's word -> the word of
                `ops.make_rope_table`.
            default_theta: where the config says nothing.
        """
        given = self._config.get("rope_parameters") or self._config.get("rope_scaling") or {}
        if not isinstance(given, dict) or any(isinstance(value, dict) for value in given.values()):
            raise CheckpointError(
                "config.json: one set of rope parameters for all layers is supported, "
                f"not {given!r}"
            )
        rope_type = given.get("rope_type", given.get("type", "default"))
        if not isinstance(rope_type, str) or rope_type not in types:
            raise CheckpointError(
                f"config.json: rope type {rope_type!r} is not supported for this architecture; "
                f"supported: {', '.join(types)}"
            )
        older = ("rope_theta", "partial_rotary_factor")
        fields = ConfigReader({**{key: self._config.get(key) for key in older}, **given})
        # The original context stands beside the rope parameters in some files; there it wins.
        original = self._config.get("original_max_position_embeddings") or given.get(
            "original_max_position_embeddings", self._config.get("max_position_embeddings")
        )
        scaling = {
            **given,
            "rope_type": types[rope_type],
            "original_max_position_embeddings": original,
        }
        return RopeSettings(
            theta=fields.number("rope_theta", default_theta),
            scaling=scaling,
            rotary_share=fields.number("partial_rotary_factor", 1.0),
        )

    def _value(self, name: str, default: Any) -> Any:
        value = self._config.get(name)
        if value is not None:
            return value
        if default is None:
            raise CheckpointError(f"config.json: {name} is missing")
        return default

    def _wrong(self, name: str, wanted: str) -> CheckpointError:
        return CheckpointError(
            f"config.json: {name} is {self._config.get(name)!r}; this architecture supports "
            f"{wanted}"
        )
