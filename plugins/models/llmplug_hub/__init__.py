"""Model files from the Hugging Face hub: the source `hf:org/name[/file][@revision]`.

`address.py` reads such an address, `choose.py` decides which files of a repository are needed,
`download.py` fetches them through huggingface_hub and verifies them, `record.py` remembers what
is complete, so that a start without a network asks nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug import SourceSpec, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from llmplug import Progress


def _find(rest: str, cache_dir: Path) -> Path | None:
    from llmplug_hub.address import parse_address
    from llmplug_hub.record import find

    return find(parse_address(rest), cache_dir)


def _fetch(rest: str, cache_dir: Path, progress: Progress) -> Path:
    from llmplug_hub.address import parse_address
    from llmplug_hub.download import fetch

    return fetch(parse_address(rest), cache_dir, progress)


@hookimpl
def llmplug_sources() -> list[SourceSpec]:
    """Offer the scheme `hf`."""
    return [
        SourceSpec(scheme="hf", syntax="hf:org/name[/file][@revision]", find=_find, fetch=_fetch),
    ]
