"""What readers and grammars of answers are built of, for tables and for dialects made by hand.

`section_reader.py` follows a section of calls by states and `message_reader.py` a row of messages,
`marker_search.py` finds markers in text that comes in pieces, `json_scanner.py` and
`python_literals.py` follow values, `parameter_types.py` says what a schema asks of them,
`writing.py` writes grammars.
"""

from llmplug.answer_parts.json_scanner import JsonScanner
from llmplug.answer_parts.marker_search import MarkerSearch, search_for
from llmplug.answer_parts.message_reader import MessageReader
from llmplug.answer_parts.parameter_types import (
    allowed_types,
    list_members,
    resolve,
    types_of,
    with_definitions,
    write_value,
)
from llmplug.answer_parts.section_reader import SectionReader, escape
from llmplug.answer_parts.writing import arguments_of, list_arguments, repeat_calls, write_text

__all__ = [
    "JsonScanner",
    "MarkerSearch",
    "MessageReader",
    "SectionReader",
    "allowed_types",
    "arguments_of",
    "escape",
    "list_arguments",
    "list_members",
    "repeat_calls",
    "resolve",
    "search_for",
    "types_of",
    "with_definitions",
    "write_text",
    "write_value",
]
