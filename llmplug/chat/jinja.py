"""Compile chat templates as the `transformers` library does, in a sandbox with budgets."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmplug.errors import CheckpointError, TemplateError

if TYPE_CHECKING:
    from jinja2.parser import Parser
    from jinja2.runtime import Context, Macro

MAX_CHARS = 16_000_000  # of a rendered conversation; a million tokens are some 4 million
MAX_RENDER_S = 10.0


class Template:
    """A compiled chat template; safe to share between threads.

    Attributes:
        tree: the syntax tree, for those who want to know what the template looks for.
        variables: names that it reads from outside.
        reserved: names that the environment defines; a caller may not.
    """

    def __init__(self, source: str) -> None:
        """Compile.

        Raises:
            CheckpointError: a syntax error, with its line.
        """
        environment = _make_environment()
        try:
            self.tree = environment.parse(source)
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(
                f"the chat template has a syntax error in line {error.lineno}: {error.message}"
            ) from error
        self.variables = frozenset(jinja2.meta.find_undeclared_variables(self.tree))
        self.reserved = frozenset(environment.globals)

    def render(self, variables: Mapping[str, Any]) -> str:
        """Render within the budgets of size and time.

        Raises:
            TemplateError: the template refuses (`raise_exception`), fails on these messages, or
                is over a budget.
        """
        deadline = time.monotonic() + MAX_RENDER_S
        pieces: list[str] = []
        num_chars = 0
        try:
            for piece in self._template.generate(**variables):
                pieces.append(piece)
                num_chars += len(piece)
                if num_chars > MAX_CHARS:
                    raise TemplateError(f"the conversation is over {MAX_CHARS} characters")
                if time.monotonic() > deadline:
                    raise TemplateError(f"rendering takes over {MAX_RENDER_S:g} s")
        except TemplateError:
            raise
        except jinja2.TemplateError as error:
            raise TemplateError(error.message or type(error).__name__) from error
        except Exception as error:
            raise TemplateError(
                f"the chat template fails on these messages: {type(error).__name__}: {error}"
            ) from error
        return "".join(pieces)


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox in which `*` and `**` cannot make a value that fills the memory."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right` if the result is small."""
        if operator == "**":
            is_small = all(isinstance(x, int | float) and abs(x) <= 1024 for x in (left, right))
        elif hasattr(left, "__len__") or hasattr(right, "__len__"):  # a text or list, repeated
            sizes = (len(x) if hasattr(x, "__len__") else abs(x) for x in (left, right))
            is_small = math.prod(sizes) <= MAX_CHARS
        else:
            is_small = all(abs(x) <= 2**64 for x in (left, right))
        if not is_small:
            raise jinja2.exceptions.SecurityError(f"{operator!r} would make too large a value")
        return super().call_binop(context, operator, left, right)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`: marks answers for training; the text stays."""

    tags = {"generation"}  # noqa: RUF012 - declared so by jinja2

    def parse(self, parser: Parser) -> nodes.Node:
        """Wrap the body in a call that returns it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_keep")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    @staticmethod
    def _keep(caller: Macro) -> str:
        return str(caller())


def _make_environment() -> jinja2.Environment:
    environment = _BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    functions: dict[str, Callable[..., Any]] = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
    }
    environment.globals.update(functions)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON without the HTML escapes of Jinja's own filter, as chat templates expect it."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
