"""Write a tree of `llmplug.grammar` as llguidance's dialect of Lark.

Source: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from llmplug import GrammarError
from llmplug.grammar import Anything, Json, Lark, OneOf, Regex, Repeat, Seq, Text, Until
from llmplug_llguidance.schema import prepare_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmplug.grammar import Node, Vocabulary

_ANY = "/(?s:.*)/"
_SOMETHING = "/(?s:.+)/"


def write_grammar(node: Node, vocabulary: Vocabulary, fits_nothing: Callable[[str], bool]) -> str:
    """Return the grammar as llguidance's JSON form.

    Args:
        fits_nothing: whether the empty text fits a terminal, as it stands in a grammar.
    Raises:
        GrammarError: a tree nested too deeply, or a schema with an unknown keyword.
    """
    writer = _Writer(vocabulary, fits_nothing)
    try:
        start = writer.write(node)
    except RecursionError:
        raise GrammarError("the grammar is nested too deeply") from None
    lines = [f"start: {start}", *writer.rules]
    grammars: list[dict[str, Any]] = [{"lark_grammar": "\n".join(lines)}, *writer.grammars]
    return json.dumps({"grammars": grammars})


class _Writer:
    """Collects rules while it writes expressions."""

    def __init__(self, vocabulary: Vocabulary, fits_nothing: Callable[[str], bool]) -> None:
        self.rules: list[str] = []
        self.grammars: list[dict[str, Any]] = []
        self._vocabulary = vocabulary
        self._fits_nothing = fits_nothing

    def write(self, node: Node) -> str:
        """Return an expression, in brackets where it needs them."""
        match node:
            case Seq(items):
                expression = f"({' '.join(map(self.write, items))})" if items else '""'
            case OneOf(items) if (words := self._words(items)) is not None:
                expression = words
            case OneOf(items):
                expression = f"({' | '.join(map(self.write, items))})"
            case Repeat(item, least, most):
                count = f"{least},{'' if most is None else most}"
                expression = f"({self.write(item)}){{{count}}}"
            case _:
                expression = self._leaf(node)
        return expression

    def _leaf(self, node: Text | Regex | Json | Lark | Until | Anything) -> str:
        match node:
            case Text(text):
                expression = self._text(text)
            case Regex(pattern):
                expression = self._regex(pattern)
            case Json(schema):
                expression = self._rule("%json " + json.dumps(prepare_schema(schema)))
            case Lark(source):
                expression = self._nested(source)
            case Until(marker):
                expression = self._until(marker)
            case Anything(without):
                expression = self._anything(without)
        return expression

    def _text(self, text: str) -> str:
        pieces = self._vocabulary.split(text)
        written = [f"<[{p}]>" if isinstance(p, int) else _quote(p) for p in pieces]
        return f"({' '.join(written)})" if written else '""'

    def _words(self, items: list[Node]) -> str | None:
        """Write a choice of plain texts as one terminal, which holds very many; None: not so."""
        texts = [item.text for item in items if isinstance(item, Text)]
        if len(texts) < max(2, len(items)) or any(self._vocabulary.split(t) != [t] for t in texts):
            return None
        return self._terminal(" | ".join(map(_quote, texts)))

    def _regex(self, pattern: str) -> str:
        """A terminal that matches nothing at all hides what could follow it: it is optional."""
        written = _between_slashes(pattern)
        terminal = self._terminal(f"{written} & {_SOMETHING}")
        return f'({terminal} | "")' if self._fits_nothing(written) else terminal

    def _until(self, marker: str) -> str:
        first, *rest = self._vocabulary.split(marker)
        behind = "".join(f" <[{p}]>" if isinstance(p, int) else f" {_quote(p)}" for p in rest)
        if isinstance(first, int):
            return f"({self._terminal(_ANY)} <[{first}]>{behind})"
        return f"({self._rule(_ANY, f'suffix={_quote(first)}')}{behind})"

    def _anything(self, without: list[str]) -> str:
        """Text cannot hold control tokens anyway, so only markers of plain text count."""
        plain = [text for text in without if self._vocabulary.split(text) == [text]]
        banned = "|".join(re.escape(text).replace("/", r"\/") for text in plain)
        return self._terminal(f"{_ANY} & ~/(?s:.*)({banned})(?s:.*)/" if banned else _ANY)

    def _nested(self, source: str) -> str:
        name = f"nested{len(self.grammars)}"
        self.grammars.append({"name": name, "lark_grammar": source})
        return f"@{name}"

    def _rule(self, body: str, options: str = "") -> str:
        name = f"rule{len(self.rules)}"
        self.rules.append(f"{name}{f'[{options}]' if options else ''}: {body}")
        return name

    def _terminal(self, body: str) -> str:
        name = f"TERMINAL{len(self.rules)}"
        self.rules.append(f"{name}: {body}")
        return name


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _between_slashes(pattern: str) -> str:
    """Write a pattern between slashes."""
    if "\0" in pattern:
        raise GrammarError("a regular expression holds a NUL character")
    escaped = re.sub(r"(\\.)|/", lambda m: m[1] or r"\/", pattern, flags=re.DOTALL)
    return "/" + escaped.replace("\n", r"\n").replace("\r", r"\r") + "/"
