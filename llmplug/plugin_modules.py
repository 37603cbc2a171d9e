"""Packages of plugins whose files have changed: imported anew, or left as they were.

Python keeps a module for as long as it runs. What a plugin handed in goes on with the code that it
came from; what is loaded afterwards comes from the files.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from llmplug.plugin_report import PluginReport

Stamps = Mapping[str, tuple[int, int]]  # file -> time of its last change, ns, and its bytes


def stamp_packages(report: PluginReport) -> dict[str, Stamps]:
    """Note the files of the packages that plugins were imported from, modules and data."""
    packages = {plugin.package for plugin in report.plugins}
    return {name: _stamp(sys.modules[name]) for name in packages if name in sys.modules}


def find_changed(before: Mapping[str, Stamps], report: PluginReport) -> set[str]:
    """Return the packages whose files are no longer what they were imported from."""
    now = stamp_packages(report)
    return {name for name, stamps in before.items() if now.get(name) != stamps}


@contextmanager
def imported_anew(packages: Collection[str]) -> Iterator[None]:
    """Import these packages from their files within the block; if it raises, go back."""
    before = _take_out(packages)
    importlib.invalidate_caches()
    try:
        yield
    except BaseException:
        _take_out(packages)
        sys.modules.update(before)
        raise


def _take_out(packages: Collection[str]) -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] in packages]
    return {name: sys.modules.pop(name) for name in names}


def _stamp(module: ModuleType) -> Stamps:
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix != ".pyc"]
    if not folders and module.__file__ is not None:
        files = [Path(module.__file__)]
    stats = {str(file): file.stat() for file in files if file.is_file()}
    return {file: (stat.st_mtime_ns, stat.st_size) for file, stat in stats.items()}
