"""What a chat template looks for in messages, read from its syntax tree."""

from __future__ import annotations

from jinja2 import nodes

# Methods and filters that look for a text in another.
_SEARCHES = {
    "count", "endswith", "find", "index", "lstrip", "partition", "removeprefix", "removesuffix",
    "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "startswith", "strip",
}  # fmt: skip


def find_searched(tree: nodes.Template) -> frozenset[str]:
    """Texts that the template searches other texts for: `'</think>' in content` and the like."""
    found: set[str] = set()
    for comparison in tree.find_all(nodes.Compare):
        if any(operand.op in {"in", "notin"} for operand in comparison.ops):
            found |= _texts_in(comparison.expr)
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr in _SEARCHES:
            found.update(text for argument in call.args for text in _texts_in(argument))
    for filter_ in tree.find_all(nodes.Filter):
        if filter_.name in _SEARCHES:
            found.update(text for argument in filter_.args for text in _texts_in(argument))
    return frozenset(found)


def find_mentioned(tree: nodes.Template) -> frozenset[str]:
    """Words that the template spells itself, and so may compare with: roles, keys, type names."""
    words = {text for text in _texts_in(tree) if text.isidentifier()}
    return frozenset(words | {access.attr for access in tree.find_all(nodes.Getattr)})


def _texts_in(node: nodes.Node) -> set[str]:
    constants = [node] if isinstance(node, nodes.Const) else node.find_all(nodes.Const)
    return {constant.value for constant in constants if isinstance(constant.value, str)}
