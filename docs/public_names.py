"""What plugins may use, name by name with its signature: the snapshot that freezes the contract."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import msgspec

# In the order of the page; what is reached from these names is public, and nothing else is.
MODULES = (
    "llmplug",
    "llmplug.ops",
    "llmplug.dialect",
    "llmplug.grammar",
    "llmplug.json_schema",
    "llmplug.answer_parts",
    "llmplug.testing",
)


def write_public_names() -> str:
    """Return the page, without the note that pages begin with."""
    lines = ["# Public names\n"]
    lines.append("What [the contract](../plugins/contract.md) keeps stable. Whoever changes a line")
    lines.append("here, on purpose, runs `make docs` and tells plugin authors in CHANGELOG.md.\n")
    for name in MODULES:
        module = importlib.import_module(name)
        lines.append(f"## {name}\n\n```python")
        for public in list_names(module):
            lines += describe(public, getattr(module, public))
        lines.append("```\n")
    return "\n".join(lines)


def list_names(module: ModuleType) -> list[str]:
    """Return the names of `__all__`, or else what is defined in the module itself."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    return sorted(
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and thing is not getattr(typing, name, None)
        and is_defined_in(thing, module)
    )


def is_defined_in(thing: Any, module: ModuleType) -> bool:
    """Return whether a thing is of a module, and not imported there; constants are."""
    home = getattr(thing, "__module__", None)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        return home == module.__name__
    return not isinstance(thing, ModuleType) and home != "__future__"


def describe(name: str, thing: Any) -> Iterator[str]:
    """Yield the lines of one name: a signature, the fields of a class and its methods."""
    if inspect.isclass(thing):
        bases = [base.__name__ for base in thing.__bases__ if base not in {object}]
        yield f"class {name}({', '.join(bases)})" if bases else f"class {name}"
        yield from (f"    {line}" for line in [*list_fields(thing), *list_methods(thing)])
    elif inspect.isfunction(inspect.unwrap(thing)):
        yield f"{name}{write_signature(inspect.unwrap(thing))}"
    else:
        yield name


def list_fields(thing: type) -> Iterator[str]:
    """Yield the fields of a class that is made of them, with types, and whether they may lack."""
    if dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            if not field.name.startswith("_"):
                yield f"{field.name}: {field.type}{'' if is_required(field) else ' = ...'}"
    elif hasattr(thing, "__struct_fields__"):
        for each in msgspec.structs.fields(thing):
            kind = inspect.get_annotations(thing).get(each.name, "...")
            yield f"{each.name}: {kind}{'' if each.required else ' = ...'}"


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Return whether a field must be given."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def list_methods(thing: type) -> Iterator[str]:
    """Yield the public methods that a class itself defines; `__call__` is one."""
    for name, member in vars(thing).items():
        if name.startswith("_") and name != "__call__":
            continue
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if inspect.isfunction(function):
            mark = "@property " if isinstance(member, property) else ""
            yield f"{mark}{name}{write_signature(function)}"


def write_signature(function: Any) -> str:
    """Return a signature as it is written; defaults that are objects as `...`."""
    signature = inspect.signature(function)
    parameters = [
        one.replace(annotation=as_written(one.annotation), default=as_default(one.default))
        for one in signature.parameters.values()
    ]
    returned = as_written(signature.return_annotation)
    return str(signature.replace(parameters=parameters, return_annotation=returned))


class Written:
    """A piece of a signature that is shown as its text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def as_written(annotation: Any) -> Any:
    """Return an annotation that is shown without quotes."""
    return Written(annotation) if isinstance(annotation, str) else annotation


def as_default(value: Any) -> Any:
    """Return a default that reads the same in every version and on every machine."""
    is_plain = value is inspect.Parameter.empty or isinstance(value, int | float | str | None)
    return value if is_plain else Written("...")
