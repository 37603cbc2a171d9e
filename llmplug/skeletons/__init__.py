"""What `llmplug plugin new` writes: a whole distribution for each kind of plugin.

Each folder is one, ready to run, named `acme-plugin` throughout; `shared/` is what all have. They
are copied with that name replaced, and tested as they come out (`tests/cli/test_plugin_new.py`).
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from llmplug.errors import PluginError

_HERE = Path(__file__).parent
# Kind -> what the README says it is.
KINDS = {
    "chat-template": "a chat template",
    "grammar": "a backend of structured output, which begins as a copy of llmplug's own",
    "kernel": "a kernel, the faster twin of an op",
    "loader": "a checkpoint format",
    "model": "a model architecture",
    "reasoning-parser": "a parser of thinking",
    "sampler": "a sampler",
    "source": "a source of model files",
    "tool-parser": "a parser of tool calls",
}
# A grammar backend is no page of code; the bundled one is where to begin.
_COPIED = {"grammar": ("llmplug_llguidance", "llguidance")}


def write_plugin(kind: str, name: str, folder: Path) -> list[Path]:
    """Write a distribution into a folder that does not exist yet; return its files.

    Args:
        kind: one of KINDS.
        name: of the distribution: `acme-sampler`.

    Raises:
        PluginError: the name is none, or something is in the way.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise PluginError(
            f"{name!r} is no name for a distribution here: lower-case words with dashes between "
            "them, such as acme-sampler"
        )
    package = name.replace("-", "_")
    if find_spec(package) is not None:
        raise PluginError(f"a module {package!r} is installed already; choose another name")
    if folder.exists():
        raise PluginError(f"{folder} exists already; nothing was written")
    words = {"acme-plugin": name, "acme_plugin": package, "KIND_WORDS": KINDS[kind]}
    files = {**_read_tree(_HERE / "shared"), **_read_tree(_HERE / kind.replace("-", "_"))}
    if kind in _COPIED:
        source, short = _COPIED[kind]
        words |= {source: package, f'name="{short}"': f'name="{package}"'}
        found = find_spec(source)
        if found is None or not found.submodule_search_locations:
            raise PluginError(f"{source}, which a new {kind} is a copy of, is not installed")
        copied = _read_tree(Path(found.submodule_search_locations[0]))
        files |= {Path("acme_plugin") / path: text for path, text in copied.items()}
    written = []
    for path, text in sorted(files.items()):
        target = folder / _replace(str(path), words)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_replace(text, words), encoding="utf-8")
        written.append(target)
    return written


def _read_tree(folder: Path) -> dict[Path, str]:
    return {
        path.relative_to(folder): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _replace(text: str, words: dict[str, str]) -> str:
    for word, replacement in words.items():
        text = text.replace(word, replacement)
    return text
