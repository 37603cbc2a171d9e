"""Model files from the Hugging Face hub: the source `hf:org/name[/file][@revision]`.

`address.py` reads such an address, `choose.py` decides which files of a repository are needed,
`download.py` fetches them through huggingface_hub and verifies them, `record.py` remembers what
is complete, so that a start without a network asks nobody.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from llmplug import SourceSpec, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from llmplug import Progress


class HubSettings(BaseModel):
    """Where the hub is, and who asks; what is left out is as huggingface_hub is configured."""

    model_config = ConfigDict(frozen=True)

    endpoint: str | None = Field(
        None, pattern=r"^https?://\S+$", description="A mirror of the hub: https://hub.example."
    )
    token: SecretStr | None = Field(
        None, description="For gated and private models; null: that of `hf auth login`."
    )


def _find(rest: str, cache_dir: Path) -> Path | None:
    from llmplug_hub.address import parse_address
    from llmplug_hub.record import find

    return find(parse_address(rest), cache_dir)


def _fetch(settings: HubSettings, rest: str, cache_dir: Path, progress: Progress) -> Path:
    from llmplug_hub.address import parse_address
    from llmplug_hub.download import fetch

    token = None if settings.token is None else settings.token.get_secret_value()
    return fetch(parse_address(rest), cache_dir, progress, endpoint=settings.endpoint, token=token)


@hookimpl
def llmplug_settings() -> type[HubSettings]:
    """Take an endpoint and a token."""
    return HubSettings


@hookimpl
def llmplug_sources(settings: HubSettings) -> list[SourceSpec]:
    """Offer the scheme `hf`."""
    return [
        SourceSpec(
            scheme="hf",
            syntax="hf:org/name[/file][@revision]",
            find=_find,
            fetch=partial(_fetch, settings),
        ),
    ]
