"""Compile chat templates as the `transformers` library does, in a sandbox with budgets."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from llmplug.chat.template_functions import (
    Namespace,
    make_dict,
    raise_exception,
    sort_mapping,
    sort_values,
    strftime_now,
    to_json,
)
from llmplug.errors import CheckpointError, TemplateError

if TYPE_CHECKING:
    from jinja2.parser import Parser
    from jinja2.runtime import Context, Macro

MAX_CHARS = 16_000_000  # of a rendered conversation; a million tokens are some 4 million
MAX_RENDER_S = 10.0

# Names that no template of anybody's has, for what is written into its tree.
_DEADLINE, _WATCH, _JOIN = "llmplug_deadline", "llmplug_watch_clock", "llmplug_join"

_Watched = TypeVar("_Watched", nodes.For, nodes.Macro, nodes.CallBlock)


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
            self.variables = frozenset(jinja2.meta.find_undeclared_variables(self.tree))
            self._template = environment.from_string(_Watching().visit(self.tree))
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(
                f"the chat template has a syntax error in line {error.lineno}: {error.message}"
            ) from error
        self.reserved = frozenset({*environment.globals, _DEADLINE})

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
            for piece in self._template.generate({**variables, _DEADLINE: deadline}):
                pieces.append(piece)
                num_chars += len(piece)
                if num_chars > MAX_CHARS:
                    raise TemplateError(f"the conversation is over {MAX_CHARS} characters")
                _check_clock(deadline)
        except TemplateError:
            raise
        except jinja2.TemplateError as error:
            raise TemplateError(error.message or type(error).__name__) from error
        except Exception as error:
            raise TemplateError(
                f"the chat template fails on these messages: {type(error).__name__}: {error}"
            ) from error
        return "".join(pieces)


class _Watching(NodeTransformer):
    """Has the budgets looked at where a template works without writing anything.

    Loops and macros look at the clock each time round, and `~` looks at what it makes.
    """

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - jinja2 calls it so
        """Watch a loop."""
        return self._watch(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:  # noqa: N802
        """Watch a macro, which may call itself."""
        return self._watch(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:  # noqa: N802
        """Watch what a macro may call any number of times."""
        return self._watch(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        """Bound `~`."""
        self.generic_visit(node)
        texts = nodes.List(node.nodes)
        return nodes.Filter(texts, _JOIN, [], [], None, None, lineno=node.lineno)

    def _watch(self, node: _Watched) -> _Watched:
        self.generic_visit(node)
        watch = nodes.Filter(nodes.Const(None), _WATCH, [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(watch).set_lineno(node.lineno))
        return node


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox in which no operator can make a value that fills the memory."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right` if the result is small."""
        if operator == "+":
            is_small = not (isinstance(left, str | list | tuple) and hasattr(right, "__len__")) or (
                len(left) + len(right) <= MAX_CHARS
            )
        elif operator == "**":
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


@jinja2.pass_context
def _watch_clock(context: Context, _: object) -> None:
    _check_clock(context.parent[_DEADLINE])  # not a name that the template could set anew


def _check_clock(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TemplateError(f"rendering takes over {MAX_RENDER_S:g} s")


def _join(values: Sequence[Any]) -> str:
    texts = [str(value) for value in values]
    if sum(map(len, texts)) > MAX_CHARS:
        raise jinja2.exceptions.SecurityError("'~' would make too large a value")
    return "".join(texts)


def _make_environment() -> jinja2.Environment:
    environment = _BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters |= {"tojson": to_json, "sort": sort_values, "dictsort": sort_mapping}
    environment.filters |= {_WATCH: _watch_clock, _JOIN: _join}
    functions: dict[str, Callable[..., Any]] = {
        "dict": make_dict,
        "namespace": Namespace,
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
    }
    environment.globals.update(functions)
    return environment
