"""All dialects that come with llmplug, and which of them a template asks for."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from tokenizers import AddedToken

from llmplug import ReasoningParserSpec, ToolParserSpec
from llmplug.chat.channels import Dialect
from llmplug.chat.choose_dialect import Evidence, choose_dialect
from llmplug.chat.render import ChatRenderer
from llmplug.chat.tokenizer import Tokenizer
from tests.chat.vocabularies import byte_level, files_of

SHELF = Path(__file__).parents[3] / "plugins" / "parsers"
PLUGINS = [
    importlib.import_module(folder.name)
    for folder in sorted(SHELF.glob("llmplug_*"))
    if (folder / "__init__.py").exists()
]
TOOLS: list[ToolParserSpec] = [
    spec
    for plugin in PLUGINS
    if hasattr(plugin, "llmplug_tool_parsers")
    for spec in plugin.llmplug_tool_parsers()
]
REASONING: list[ReasoningParserSpec] = [
    spec
    for plugin in PLUGINS
    if hasattr(plugin, "llmplug_reasoning_parsers")
    for spec in plugin.llmplug_reasoning_parsers()
]


def choose_for(template: str, tokens: str) -> Dialect:
    """Choose as a start does, with a vocabulary that has the tokens that match a pattern."""
    library = byte_level()
    found = sorted(set(re.findall(tokens, template)))
    library.add_tokens([AddedToken(text, special=True) for text in found])
    evidence = Evidence(
        template=template,
        config={},
        vocabulary=frozenset(library.get_vocab()),
        renderer=ChatRenderer(Tokenizer(files_of(library)), template),
    )
    dialect, _ = choose_dialect(TOOLS, REASONING, evidence)
    return dialect


def names_of(dialect: Dialect) -> tuple[str | None, str | None]:
    """Return what a dialect's calls and its thinking are called."""
    calls = dialect.tools.name if dialect.tools is not None else None
    return calls, dialect.reasoning.name if dialect.reasoning is not None else None
