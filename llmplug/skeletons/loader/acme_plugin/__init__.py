"""A checkpoint format: one `.acme` file, a zip archive of numpy arrays and the JSON files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug import LoaderSpec, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from llmplug import Checkpoint


def _claims(path: Path) -> bool:
    return path.suffix == ".acme" and path.is_file()


def _open(path: Path) -> Checkpoint:
    from acme_plugin.archive import Archive

    return Archive(path)


@hookimpl
def llmplug_model_loaders() -> list[LoaderSpec]:
    """Offer the format."""
    return [LoaderSpec(name="acme_plugin", claims=_claims, open=_open)]
