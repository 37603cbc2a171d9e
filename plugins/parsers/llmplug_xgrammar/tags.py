"""Write a tree of `llmplug.grammar` as a structural tag of xgrammar.

Source: https://xgrammar.mlc.ai/docs/structural_tag/structural_tag.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xgrammar import Grammar

from llmplug import GrammarError
from llmplug.grammar import Anything, Json, Lark, OneOf, Regex, Repeat, Seq, Text, Until
from llmplug_xgrammar.schema import check_pattern, check_schema

if TYPE_CHECKING:
    from llmplug.grammar import Node, Vocabulary

Tag = dict[str, Any]

_PADDING = 1  # characters of white space between the parts of JSON, at most


def write_tag(node: Node, vocabulary: Vocabulary) -> Tag:
    """Return a tree as a structural tag.

    Raises:
        GrammarError: a tree nested too deeply, or what the library would pass over.
    """
    try:
        return {"type": "structural_tag", "format": _write(node, vocabulary)}
    except RecursionError:
        raise GrammarError("the grammar is nested too deeply") from None


def _write(node: Node, vocabulary: Vocabulary) -> Tag:
    match node:
        case Seq(items):
            tag = _sequence([_write(item, vocabulary) for item in items])
        case OneOf(items):
            tag = {"type": "or", "elements": [_write(item, vocabulary) for item in items]}
        case Repeat(item, least, most):
            content = _write(item, vocabulary)
            most = -1 if most is None else most
            tag = {"type": "repeat", "min": least, "max": most, "content": content}
        case _:
            tag = _write_leaf(node, vocabulary)
    return tag


def _write_leaf(node: Text | Regex | Json | Lark | Until | Anything, vocabulary: Vocabulary) -> Tag:
    match node:
        case Text(text):
            tag = _sequence(_write_text(text, vocabulary))
        case Regex(pattern):
            check_pattern(pattern)
            tag = {"type": "regex", "pattern": pattern.replace("\n", r"\n")}
        case Json(schema):
            tag = _write_json(schema)
        case Lark(source):
            tag = {"type": "grammar", "grammar": str(Grammar.from_lark(source))}
        case Until(marker):
            tag = _write_until(marker, vocabulary)
        case Anything(without):
            plain = [text for text in without if vocabulary.split(text) == [text]]
            tag = {"type": "any_text", "excludes": plain}
    return tag


def _write_text(text: str, vocabulary: Vocabulary) -> list[Tag]:
    return [
        {"type": "token", "token": piece}
        if isinstance(piece, int)
        else {"type": "const_string", "value": piece}
        for piece in vocabulary.split(text)
    ]


def _write_until(marker: str, vocabulary: Vocabulary) -> Tag:
    first, *rest = _write_text(marker, vocabulary)
    if first["type"] == "token":
        return _sequence([{"type": "any_text"}, first, *rest])
    free = {"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": first["value"]}
    return _sequence([free, *rest])


def _write_json(schema: Any) -> Tag:
    check_schema(schema)
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": _PADDING}


def _sequence(tags: list[Tag]) -> Tag:
    if len(tags) == 1:
        return tags[0]
    return {"type": "sequence", "elements": tags or [{"type": "const_string", "value": ""}]}
