"""Write a tree of `llmplug.grammar` as llguidance's dialect of Lark.

Source: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from llmplug import GrammarError
from llmplug.grammar import Anything, Json, Lark, OneOf, Regex, Repeat, Seq, Text, Until

if TYPE_CHECKING:
    from llmplug.grammar import Node, Vocabulary

_ANY = "/(?s:.*)/"
_SOMETHING = "/(?s:.+)/"
# JSON on one line: where white space is free, small models fill answers with it.
_STYLE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


def write_grammar(node: Node, vocabulary: Vocabulary) -> str:
    """Return the grammar as llguidance's JSON form.

    Raises:
        GrammarError: a tree nested too deeply.
    """
    writer = _Writer(vocabulary)
    try:
        start = writer.write(node)
    except RecursionError:
        raise GrammarError("the grammar is nested too deeply") from None
    lines = [f"start: {start}", *writer.rules]
    grammars: list[dict[str, Any]] = [{"lark_grammar": "\n".join(lines)}, *writer.grammars]
    return json.dumps({"grammars": grammars})


class _Writer:
    """Collects rules while it writes expressions."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.rules: list[str] = []
        self.grammars: list[dict[str, Any]] = []
        self._vocabulary = vocabulary

    def write(self, node: Node) -> str:
        """Return an expression, in brackets where it needs them."""
        match node:
            case Seq(items):
                expression = f"({' '.join(map(self.write, items))})" if items else '""'
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
                expression = self._rule("%json " + json.dumps(_as_object(schema)))
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

    def _regex(self, pattern: str) -> str:
        """A terminal that matches nothing at all hides what could follow it: it is optional."""
        terminal = self._terminal(f"{_between_slashes(pattern)} & {_SOMETHING}")
        return f'({terminal} | "")' if _fits_nothing(pattern) else terminal

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


def _as_object(schema: Any) -> dict[str, Any]:
    """`%json` wants an object: `true` is any value; `false`, which nothing fits, is refused."""
    if schema is False:
        raise GrammarError("no JSON fits the schema 'false'")
    return {**({} if schema is True else schema), "x-guidance": _STYLE}


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _between_slashes(pattern: str) -> str:
    """Write a pattern between slashes."""
    if "\0" in pattern:
        raise GrammarError("a regular expression holds a NUL character")
    escaped = re.sub(r"(\\.)|/", lambda m: m[1] or r"\/", pattern, flags=re.DOTALL)
    return "/" + escaped.replace("\n", r"\n").replace("\r", r"\r") + "/"


def _fits_nothing(pattern: str) -> bool:
    """Whether the empty text fits; where Python cannot tell, it is taken to fit."""
    try:
        return re.fullmatch(pattern, "") is not None
    except (re.error, RecursionError, OverflowError):
        return True
