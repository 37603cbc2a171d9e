"""Which table of block sizes a model's kernels get, and how much of it holds here."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from llmplug.errors import ConfigError
from llmplug.plan import Choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.config import ModelConfig
    from llmplug.ops import KernelChoice, TuningTable
    from llmplug.registry import Registry
    from llmplug.specs import KernelSpec

_log = logging.getLogger(__name__)
_TOPIC = "kernel tuning"


def find_table(named: str, cache: Path) -> Path | None:
    """Return the file that `kernels.tuning` means, there or not; None: none.

    Args:
        cache: the folder of what can be made again.
    """
    if named == "none":
        return None
    return cache / "tuning.json" if named == "auto" else Path(named).expanduser()


def choose_tuning(
    config: ModelConfig,
    kernels: Sequence[KernelChoice],
    registry: Registry,
    device: str,
    cache: Path,
) -> tuple[TuningTable | None, Choice]:
    """Read the table that serves these kernels, if there is one.

    Raises:
        ConfigError: the file that the config names is not there, or it is no such table.
    """
    from llmplug.ops.tuning_table import TuningTable, read_table

    path = find_table(config.kernels.tuning, cache)
    if path is None:
        return None, Choice(topic=_TOPIC, chosen="none", why="the config says so")
    specs = _list_tunable(kernels, registry)
    if not path.exists():
        if config.kernels.tuning != "auto":
            raise ConfigError(f"kernels.tuning: no such file: {path}; llmplug tune writes one")
        why = f"{len(specs)} kernels could be tuned: llmplug tune writes {path}"
        return None, Choice(topic=_TOPIC, chosen="none", why=why if specs else "nothing to tune")
    table = TuningTable(device, tuple(read_table(path)))
    found = [
        table.choose_rows(f"{spec.op}/{spec.name}", spec.tunables(device))
        for spec in specs
        if spec.tunables is not None
    ]
    num_rows = sum(len(sizes.rows) for sizes in found)
    num_kernels = sum(bool(sizes.rows) for sizes in found)
    num_outdated = sum(sizes.num_outdated for sizes in found)
    why = f"{num_rows} rows for {num_kernels} of {len(specs)} kernels that can be tuned"
    if num_outdated:
        outdated = f"{num_outdated} rows are of another source or compiler, and not used"
        _log.warning("%s: %s: llmplug tune finds new ones", path, outdated)
        why += f"; {outdated}"
    return table, Choice(topic=_TOPIC, chosen=str(path), why=why)


def _list_tunable(kernels: Sequence[KernelChoice], registry: Registry) -> list[KernelSpec]:
    chosen = {(choice.op, choice.kernel) for choice in kernels if choice.plugin is not None}
    return [
        entry.spec
        for entry in registry.kernels
        if (entry.spec.op, entry.spec.name) in chosen and entry.spec.tunables is not None
    ]
