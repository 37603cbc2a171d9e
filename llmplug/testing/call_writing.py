"""Write calls as a table says, apart from the grammars: what readers must read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmplug.dialect import (
    BraceCalls,
    CallSyntax,
    CustomCalls,
    JsonCalls,
    NamedCalls,
    PythonCalls,
    TaggedCalls,
)


@dataclass
class Call:
    """A call to write."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    separators: tuple[str, str] = (", ", ": ")  # of JSON
    is_ascii: bool = False

    @property
    def json(self) -> str:
        """The arguments' JSON text."""
        return self.write(self.arguments)

    def write(self, value: Any) -> str:
        """Write a value as JSON."""
        return json.dumps(value, separators=self.separators, ensure_ascii=self.is_ascii)


def write_calls(table: CallSyntax, calls: Sequence[Call]) -> str:
    """Write calls as a table of markers has them; one that is read by hand writes them itself."""
    match table:
        case JsonCalls():
            return _write_json(table, calls)
        case NamedCalls():
            return _in_section(
                table.section, [_write_named(table, *each) for each in enumerate(calls)]
            )
        case TaggedCalls():
            return _in_section(table.section, [_write_tagged(table, call) for call in calls])
        case PythonCalls():
            return _write_python(table, calls)
        case BraceCalls():
            return "".join(_write_braces(table, call) for call in calls)
        case CustomCalls():
            raise TypeError("no table writes these calls: give `write`")


def _in_section(section: tuple[str, str] | None, calls: list[str]) -> str:
    start, end = section or ("", "")
    return start + "\n".join(calls) + end


def _write_json(table: JsonCalls, calls: Sequence[Call]) -> str:
    start = table.start[0] if table.start else ""
    end = table.end if table.start else ""
    objects = []
    for call in calls:
        name, colon = json.dumps(call.name), call.separators[1]
        if not table.name_key:
            objects.append(f"{{{name}{colon}{call.json}}}")
            continue
        pairs = [
            f'"{table.name_key}"{colon}{name}',
            f'"{table.arguments_key[-1]}"{colon}{call.json}',
        ]
        if call.is_ascii:
            pairs.reverse()
        objects.append("{" + call.separators[0].join(pairs) + "}")
    if table.holds == "list":
        return f"{start}[{', '.join(objects)}]{end}"
    if table.holds == "objects":
        return start + "; ".join(objects) + end
    return "\n".join(f"{start}{each}{end}" for each in objects)


def _write_named(table: NamedCalls, index: int, call: Call) -> str:
    name = table.name_format.replace("{name}", call.name).replace("{index}", str(index))
    return f"{table.start}{name}{table.after_name}{call.json}{table.end}"


def _write_tagged(table: TaggedCalls, call: Call) -> str:
    before, behind = table.around or ("", "")
    text = before + table.name[0] + call.name + table.name[1]
    for key, value in call.arguments.items():
        is_text = isinstance(value, str)
        wanted = ("text", "schema") if is_text else ("json", "schema")
        end = next(end for kind in wanted for end, each in table.key[1].items() if each == kind)
        written = value if is_text else call.write(value)
        text += f"{table.key[0]}{key}{end}{table.value[0]}"
        text += f"{table.pad}{written}{table.pad}{table.value[1]}"
    return text + table.end + behind


def _write_python(table: PythonCalls, calls: Sequence[Call]) -> str:
    written = []
    for call in calls:
        pairs = (f"{key}={value!r}" for key, value in call.arguments.items())
        written.append(f"{call.name}({', '.join(pairs)})")
    start = table.start[0] if table.start else ""
    end = table.end if table.start else ""
    if table.is_list:
        return f"{start}[{', '.join(written)}]{end}"
    return start + "\n".join(written) + end


def _write_braces(table: BraceCalls, call: Call) -> str:
    return f"{table.start}{call.name}{_write_brace_value(table, call.arguments)}{table.end}"


def _write_brace_value(table: BraceCalls, value: Any) -> str:
    if isinstance(value, str):
        return f"{table.quote}{value}{table.quote}"
    if isinstance(value, dict):
        pairs = (f"{key}:{_write_brace_value(table, each)}" for key, each in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_write_brace_value(table, each) for each in value) + "]"
    return json.dumps(value)
