"""What a check is: a function whose docstring says what it wants; it fails with what it saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, overload

if TYPE_CHECKING:
    from typing import Literal

    from llmplug.conformance.target import Answer, Target

SHOWN_CHARS = 200


class CheckFailed(Exception):
    """The server does not do what the check wants."""


class NotOffered(Exception):
    """The server has no such endpoint, or says plainly that it does not serve this."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: `topic: what is tried`.
        wants: what must be so.
    """

    name: str
    wants: str
    run: Callable[[Target], None]


def check(topic: str) -> Callable[[Callable[[Target], None]], Check]:
    """Make a check of a function; its docstring says what must be so."""

    def make(function: Callable[[Target], None]) -> Check:
        what = function.__name__.replace("_", " ")
        return Check(f"{topic}: {what}", (function.__doc__ or "").strip(), function)

    return make


@overload
def expect(condition: Literal[False], seen: str) -> NoReturn: ...
@overload
def expect(condition: object, seen: str) -> None: ...
def expect(condition: object, seen: str) -> None:
    """Go on if a condition holds.

    Raises:
        CheckFailed: it does not; the message says what was seen.
    """
    if not condition:
        raise CheckFailed(seen[:SHOWN_CHARS])


def expect_ok(answer: Answer) -> Any:
    """Return the JSON of an answer that must be a success."""
    expect(answer.status == 200, f"status {answer.status}: {answer.body[:120]!r}")
    return answer.json()


def expect_offered(answer: Answer) -> Any:
    """The same, of an endpoint that a server need not have."""
    if answer.status in (404, 405, 501):
        raise NotOffered
    return expect_ok(answer)


def expect_refused(answer: Answer, *statuses: int, param: str | None = None) -> dict[str, Any]:
    """Return the error object of an answer that must be a refusal, in OpenAI's shape.

    Args:
        param: what it must name; None: nothing of its own.
    """
    expect(answer.status in statuses, f"status {answer.status}: {answer.body[:120]!r}")
    body = answer.json()
    error: Any = body.get("error") if isinstance(body, dict) else None
    expect(isinstance(error, dict), f"no error object: {answer.body[:120]!r}")
    for name in ("message", "type"):
        expect(isinstance(error.get(name), str) and error[name], f"error.{name} is no text")
    code = error.get("code")
    expect(code is None or isinstance(code, str), f"error.code is {code!r}, no text")
    if param is not None:
        named = error.get("param") or ""
        expect(named.startswith(param), f"error.param is {named!r}, not {param!r}")
    found: dict[str, Any] = error
    return found
