"""YAML text -> plain values that know where they were written; the only reader of YAML."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from llmplug.config.shape import is_secret
from llmplug.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

    from llmplug.config.values import Path

PLUGIN_SETTINGS = ("plugins", "settings")
MAX_VALUES = 10_000  # aliases of aliases make any number out of a few lines
MAX_DEPTH = 32  # of values in values; the YAML reader takes ever longer with each
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


@dataclass(slots=True)
class Document:
    """Values of a config, before they are checked.

    Attributes:
        name: of the file, for messages.
        values: dicts, lists and scalars.
        places: path of a value -> where it was written: `config/x.yaml:12`, `--set server.port`.
        at: where in the config these values stand.
    """

    name: str
    values: Any = field(default_factory=dict)
    places: dict[Path, str] = field(default_factory=dict)
    at: Path = ()

    def part(self, path: Path) -> Document:
        """Return what stands at a path, as a document that says the same places."""
        values = self.values
        for part in path:
            values = values[part]
        known = {each: at for each, at in self.places.items() if each[: len(path)] == path}
        places = {each[len(path) :]: at for each, at in known.items()}
        return Document(self.place(path), values, places, (*self.at, *path))

    def locate(self, path: Path) -> str:
        """Say where a value was written, and its key: `config/x.yaml:12: server.port`."""
        place, key = self.place(path), dotted((*self.at, *path))
        return place if place == f"--set {key}" else f"{place}: {key}"

    def place(self, path: Path) -> str:
        """Return where the value at a path stands, or the nearest thing around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.name

    def override(self, assignment: str) -> None:
        """Apply one `--set a.b.0.c=value`; the value is YAML, and `a.b` may be new.

        Raises:
            ConfigError: it is no assignment, or leads nowhere.
        """
        key, equals, text = assignment.partition("=")
        path: Path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        if not equals or "" in path:
            raise ConfigError(f"--set {assignment!r}: expected key=value, such as server.port=8001")
        here = f"--set {key}"
        reader = _Reader(here, lambda _line: here)
        value = reader.read_text(text, path)
        _store(self.values, path, value, here)
        kept = {known: at for known, at in self.places.items() if known[: len(path)] != path}
        self.places = kept | reader.places | {path: here}

    def expand_secrets(self, model: type[BaseModel]) -> None:
        """Read `${NAME}` from the environment, in what `model` calls secret; else it is an error.

        Settings of plugins are left as they are: nobody knows yet what of them is secret.

        Raises:
            ConfigError: it stands elsewhere, or the variable is not set.
        """
        self.values = self._expand(self.values, (), model)

    def _expand(self, value: Any, path: Path, model: type[BaseModel]) -> Any:
        if (*self.at, *path) == PLUGIN_SETTINGS:
            return value
        if isinstance(value, dict):
            return {key: self._expand(item, (*path, key), model) for key, item in value.items()}
        if isinstance(value, list):
            return [self._expand(item, (*path, index), model) for index, item in enumerate(value)]
        if not isinstance(value, str) or not _VARIABLE.search(value):
            return value
        if not is_secret(model, path):
            raise ConfigError(
                f"{self.locate(path)}: ${{NAME}} is read in secrets only; "
                "write the value itself, or override it with --set"
            )
        return _VARIABLE.sub(lambda match: self._variable(match[1], path), value)

    def _variable(self, name: str, path: Path) -> str:
        value = os.environ.get(name)
        if not value:
            raise ConfigError(f"{self.locate(path)}: environment variable {name!r} is not set")
        return value


def read_document(text: str, name: str) -> Document:
    """Parse YAML; an empty text is an empty mapping.

    Raises:
        ConfigError: no YAML, a key twice, a key that is no text, or not a mapping at the top.
    """
    reader = _Reader(name, lambda line: f"{name}:{line}")
    values = reader.read_text(text, ())
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: expected keys such as 'models:', got {values!r:.60}")
    return Document(name, values, reader.places)


def write_document(values: Any) -> str:
    """Write plain values as YAML, keys in their order."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def is_variable(text: str) -> bool:
    """Return whether a value is read from the environment: `${NAME}`, and nothing beside it."""
    return _VARIABLE.fullmatch(text) is not None


def dotted(path: Path) -> str:
    """Write a path as `--set` takes it: `models.0.source`."""
    return ".".join(str(part) for part in path)


class _Loader(yaml.SafeLoader):
    """Reads YAML, as deep as a config may be."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = self.get_mark()
            raise yaml.MarkedYAMLError(
                problem=f"values are nested over {MAX_DEPTH} deep", problem_mark=mark
            )
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _Reader:
    """Walks the nodes of one YAML text; `places` fills on the way."""

    def __init__(self, name: str, place_of: Callable[[int], str]) -> None:
        self.places: dict[Path, str] = {}
        self._name = name
        self._place_of = place_of  # line, from 1 -> place
        self._open: list[yaml.Node] = []
        self._num_values = 0

    def read_text(self, text: str, path: Path) -> Any:
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            return None if node is None else self._read(loader, node, path)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = self._place_of(mark.line + 1) if mark else self._name
            raise ConfigError(f"{place}: no valid YAML: {error.problem}") from None
        except ConfigError:
            raise
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-01
            reason = " ".join(str(error).split())
            raise ConfigError(f"{self._name}: no valid YAML: {reason}") from None

    def _read(self, loader: yaml.SafeLoader, node: yaml.Node, path: Path) -> Any:
        if any(node is one for one in self._open):
            raise ConfigError(f"{self._here(node)}: {dotted(path)} contains itself")
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise ConfigError(f"{self._here(node)}: more than {MAX_VALUES} values")
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._read_mapping(loader, node, path)
            if isinstance(node, yaml.SequenceNode):
                return self._read_list(loader, node, path)
            return loader.construct_object(node)
        finally:
            self._open.pop()

    def _read_mapping(self, loader: yaml.SafeLoader, node: yaml.MappingNode, path: Path) -> Any:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._read(loader, key_node, path)
            here = self._here(key_node)
            if not isinstance(key, str):
                raise ConfigError(f"{here}: the key {key!r} is no text; put it in quotes")
            if key in values:
                first = self.places[*path, key]
                raise ConfigError(f"{here}: key {key!r} stands twice, first at {first}")
            self.places[*path, key] = here
            values[key] = self._read(loader, value_node, (*path, key))
        return values

    def _read_list(self, loader: yaml.SafeLoader, node: yaml.SequenceNode, path: Path) -> Any:
        values = []
        for index, item in enumerate(node.value):
            self.places[*path, index] = self._here(item)
            values.append(self._read(loader, item, (*path, index)))
        return values

    def _here(self, node: yaml.Node) -> str:
        return self._place_of(node.start_mark.line + 1)


def _store(holder: Any, path: Path, value: Any, here: str) -> None:
    """Put a value where a path leads; mappings and one more list item are made on the way."""
    *parents, last = path
    for part, following in zip(parents, path[1:], strict=True):
        empty: Any = [] if isinstance(following, int) else {}
        if isinstance(holder, dict) and isinstance(part, str):
            holder = holder.setdefault(part, empty)
        elif isinstance(holder, list) and isinstance(part, int) and part <= len(holder):
            holder.extend([empty] if part == len(holder) else [])
            holder = holder[part]
        else:
            raise ConfigError(f"{here}: {part!r} leads nowhere")
    if isinstance(holder, dict) and isinstance(last, str):
        holder[last] = value
    elif isinstance(holder, list) and isinstance(last, int) and last <= len(holder):
        holder[last : last + 1] = [value]
    else:
        raise ConfigError(f"{here}: {last!r} leads nowhere")
