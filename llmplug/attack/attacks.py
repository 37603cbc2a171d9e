"""What an attack is: a function whose docstring says what must come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmplug.attack.attacker import Attacker


@dataclass(frozen=True, slots=True)
class Attack:
    """One class of attacks.

    Attributes:
        name: `topic: what is sent`.
        wants: what must come of it.
    """

    name: str
    wants: str
    run: Callable[[Attacker], None]


def attack(topic: str) -> Callable[[Callable[[Attacker], None]], Attack]:
    """Make an attack of a function; its docstring says what must come of it."""

    def make(function: Callable[[Attacker], None]) -> Attack:
        what = function.__name__.replace("_", " ")
        return Attack(f"{topic}: {what}", (function.__doc__ or "").strip(), function)

    return make
