"""Write docs/reference/ from the code, and code into docs/plugins/: `make docs`.

A test fails when a page is out of date.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from docs.included_code import fill_in_all
from docs.public_names import write_public_names
from llmplug import cli, config, errors, hookspecs, specs
from llmplug.chat.calls import start_markers

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Written by `make docs` from the code; edits here are lost. -->\n"


def split_docstring(thing: Any) -> tuple[str, dict[str, str]]:
    """Return the text of a docstring, and what its Attributes section says by name."""
    text, _, section = (inspect.getdoc(thing) or "").partition("\nAttributes:\n")
    entries = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", section, flags=re.MULTILINE)
    return text.strip(), {name: re.sub(r"\s+", " ", words) for name, words in entries}


def read_field_comments(spec: type) -> dict[str, str]:
    """Return the comments that stand behind the fields of a class, by field."""
    lines = inspect.getsource(spec)
    return dict(re.findall(r"^    (\w+): [^#\n]+  # (.+)$", lines, flags=re.MULTILINE))


def describe_spec(spec: type) -> Iterator[str]:
    """Yield the lines of one spec: its text, then its fields with their types."""
    text, attributes = split_docstring(spec)
    attributes |= read_field_comments(spec)
    yield f"### {spec.__name__}\n\n{text}\n"
    yield "| field | type | meaning |\n|---|---|---|"
    for name, annotation in spec.__annotations__.items():
        kind = str(annotation).replace("|", "\\|")
        yield f"| `{name}` | `{kind}` | {attributes.get(name, '').replace('|', chr(92) + '|')} |"
    yield ""


def write_hooks() -> str:
    """Return the page of hooks and what they return."""
    functions = [
        function
        for name, function in vars(hookspecs).items()
        if name.startswith("llmplug_") and inspect.isfunction(function)
    ]
    lines = [NOTE, "# Hooks\n", (inspect.getdoc(hookspecs) or "") + "\n"]
    for function in functions:
        returned = inspect.signature(function).return_annotation
        lines.append(
            f"## {function.__name__}\n\n{inspect.getdoc(function)} Returns `{returned}`.\n"
        )
        spec = getattr(specs, str(returned).removeprefix("list[").removesuffix("]"), None)
        lines += [] if spec is None else describe_spec(spec)
    lines.append("## What specs and their functions are given, and give\n")
    for name, thing in ((name, getattr(specs, name)) for name in specs.__all__):
        if name.endswith("Spec") or not inspect.isclass(thing) or not inspect.getdoc(thing):
            continue
        lines += describe_protocol(thing) if is_protocol(thing) else describe_spec(thing)
    return "\n".join(lines)


def is_protocol(thing: type) -> bool:
    """Return whether a class only says what others must have."""
    return bool(getattr(thing, "_is_protocol", False))


def describe_protocol(thing: type) -> Iterator[str]:
    """Yield the members of a protocol with their signatures."""
    text, _ = split_docstring(thing)
    yield f"### {thing.__name__}\n\n{text}\n"
    for name, member in vars(thing).items():
        function = member.fget if isinstance(member, property) else member
        if (name.startswith("_") and name != "__call__") or not inspect.isfunction(function):
            continue
        signature = str(inspect.signature(function)).replace("'", "")
        head = f"{name}{signature}"
        if isinstance(member, property):
            head = f"{name} -> {signature.rpartition('-> ')[2]}"
        yield f"```python\n{head}\n```\n\n```text\n{inspect.getdoc(function)}\n```\n"


def list_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any, type]]:
    """Yield every key of the config as dotted path, with its field and its annotation."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if is_model(kind)]
        if inner:
            is_list = not is_model(field.annotation)
            yield from list_keys(inner[0], f"{path}[]." if is_list else f"{path}.")
        else:
            yield path, field, get_type_hints(model)[name]


def is_model(kind: Any) -> bool:
    """Return whether an annotation is a section of the config."""
    return inspect.isclass(kind) and issubclass(kind, BaseModel)


def write_type(annotation: Any) -> str:
    """Return a type as readers write it: `"auto" | "cpu"`, `list[str]`."""
    if get_origin(annotation) is Literal:
        return " | ".join(json.dumps(value) for value in get_args(annotation))
    if get_origin(annotation) in {Union, UnionType}:
        return " | ".join(write_type(kind) for kind in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"list[{write_type(get_args(annotation)[0])}]"
    return "null" if annotation is NoneType else str(annotation.__name__)


def write_config() -> str:
    """Return the page of config keys."""
    lines = [NOTE, "# Config\n"]
    lines.append("One YAML file is the whole truth; `--set key=value` overrides it. `[]` is a list")
    lines.append("entry. An unknown key is an error. `llmplug config explain` prints where each")
    lines.append("value of a file comes from.\n")
    lines.append("| key | type | default | meaning |\n|---|---|---|---|")
    for path, field, annotation in list_keys(config.Config):
        default = "required" if field.is_required() else f"`{json.dumps(field.get_default())}`"
        kind = write_type(annotation).replace("|", "\\|")
        lines.append(f"| `{path}` | `{kind}` | {default} | {field.description or ''} |")
    return "\n".join(lines) + "\n"


def write_errors() -> str:
    """Return the page of exceptions."""
    lines = [NOTE, "# Errors\n", f"```text\n{inspect.getdoc(errors)}\n```\n"]
    for name, thing in vars(errors).items():
        if inspect.isclass(thing) and issubclass(thing, errors.LlmplugError):
            code = getattr(thing, "code", None)
            suffix = f" `code`: `{code}`." if code else ""
            lines.append(f"## {name}\n\n{inspect.getdoc(thing)}{suffix}\n")
    return "\n".join(lines)


def ask_help(*command: str) -> str:
    """Return what `llmplug COMMAND --help` prints, 100 columns wide, without colours."""
    code = "import sys; sys.argv[0] = 'llmplug'; from llmplug.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
    )
    return done.stdout


def write_cli() -> str:
    """Return the page of the command line."""
    commands = [one.NAME for one in cli.load_commands() if one.HELP != argparse.SUPPRESS]
    lines = [NOTE, "# Command line\n", f"```text\n{ask_help()}```\n"]
    lines += [f"## llmplug {name}\n\n```text\n{ask_help(name)}```\n" for name in commands]
    return "\n".join(lines)


def write_dialects() -> str:
    """Return the page of the bundled dialects."""
    lines = [NOTE, "# Bundled dialects\n"]
    lines.append(
        "How each family writes tool calls and thinking. `name` goes into `tool_parser` and"
    )
    lines.append("`reasoning_parser` of a model's config, which can do without: see")
    lines.append("[dialects](../dialects.md).\n")
    lines.append(
        "| plugin | families | calls: name and first marker | thinking |\n|---|---|---|---|"
    )
    for entry in sorted(entry_points(group="llmplug"), key=lambda entry: entry.name):
        plugin = entry.load() if entry.dist is not None and entry.dist.name == "llmplug" else None
        calls = [write_calls(spec) for spec in list_specs(plugin, "llmplug_tool_parsers")]
        thinking = [
            write_thinking(spec) for spec in list_specs(plugin, "llmplug_reasoning_parsers")
        ]
        if calls or thinking:
            text = " ".join((inspect.getdoc(plugin) or "").split("\n\n")[0].split())
            cells = (entry.name, text, "<br>".join(calls), "<br>".join(thinking))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def list_specs(plugin: Any, hook: str) -> list[Any]:
    """Return what a plugin offers by a hook, if it has it."""
    return list(getattr(plugin, hook, list)())


def write_calls(spec: specs.ToolParserSpec) -> str:
    """Return a dialect's name and how its calls begin."""
    if not spec.syntax:
        return f"`{spec.name}`: a parser of its own"
    marker = next(iter(start_markers(spec.syntax[0])), "")
    return f"`{spec.name}`: " + (quote(marker) if marker else "no marker")


def write_thinking(spec: specs.ReasoningParserSpec) -> str:
    """Return a dialect's name and the markers of its thinking."""
    if spec.syntax is None:
        return f"`{spec.name}`: a parser of its own"
    return f"`{spec.name}`: {quote(spec.syntax.start[0])} to {quote(spec.syntax.end)}"


def write_metrics() -> str:
    """Return the page of what /metrics says."""
    from llmplug.server.app import create_app
    from llmplug.server.service import Service

    service = Service([])
    create_app(service, config.ServerConfig(batches=config.BatchesConfig(path="none")))
    text = (
        "What `/metrics` says, for Prometheus; [what to watch](../operations.md). `model` is a "
        "name of the config, `key` that of an API key. Beside these there are the `process_...` "
        "of Prometheus' client library.\n"
    )
    lines = [
        NOTE,
        "# Metrics\n",
        text,
        "| metric | type | labels | |\n|---|---|---|---|",
    ]
    for name, kind, labels, text in sorted(list_metrics(service.metrics.registry)):
        lines.append(f"| `{name}` | {kind} | {', '.join(labels)} | {text} |")
    return "\n".join(lines) + "\n"


def list_metrics(registry: Any) -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Yield name, type, labels and text of each metric of ours, as they are scraped."""
    for collector in registry._collector_to_names:
        for family in collector.collect():
            if not family.name.startswith("llmplug_"):
                continue
            labels: Any = getattr(family, "_labelnames", ()) or getattr(
                collector, "_labelnames", ()
            )
            suffix = "_total" if family.type == "counter" else ""
            yield f"{family.name}{suffix}", family.type, tuple(labels), family.documentation


def quote(text: str) -> str:
    """Return a text as Markdown quotes code, whatever backticks it holds."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{text.strip()}{space}{fence}"


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": write_cli,
    "config.md": write_config,
    "dialects.md": write_dialects,
    "errors.md": write_errors,
    "hooks.md": write_hooks,
    "metrics.md": write_metrics,
    "public.md": lambda: f"{NOTE}\n{write_public_names()}",
}


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(exist_ok=True)
    for name, write in PAGES.items():
        (FOLDER / name).write_text(write())
        print(f"docs/reference/{name}")
    fill_in_all()


if __name__ == "__main__":
    main()
