"""Fetching through huggingface_hub, with the user's own login, mirror and proxy settings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub import errors as hub_errors

from llmplug import SourceError
from llmplug_hub.choose import choose_files
from llmplug_hub.record import hub_folder, keep

if TYPE_CHECKING:
    from llmplug import Progress
    from llmplug_hub.address import Address

_CHUNK_BYTES = 1 << 20
# huggingface_hub lets the errors of its HTTP library through, and has changed that library once.
_NetworkError: type[Exception] = hub_errors.HTTPError  # type: ignore[attr-defined]


def fetch(
    address: Address,
    cache_dir: Path,
    progress: Progress,
    *,
    endpoint: str | None = None,
    token: str | None = None,
) -> Path:
    """Download what a model needs, verify it and record that it is complete.

    Args:
        endpoint: of the hub; None: as huggingface_hub is configured.
        token: for gated and private models; None: that of the user's login, if there is one.

    Raises:
        SourceError: not found, gated, offline, no such revision or file, or damaged bytes.
    """
    with _explained(address):
        info = HfApi(endpoint=endpoint, token=token).model_info(
            address.repo, revision=address.revision, files_metadata=True
        )
    entries = {entry.rfilename: entry for entry in info.siblings or []}
    names = choose_files(address, list(entries))
    stage = f"download {address.repo}"
    total = sum(entries[name].size or 0 for name in names)
    done = 0
    files: dict[str, Path] = {}
    for name in names:
        progress(stage, done, total)
        with _explained(address):
            path = hf_hub_download(
                address.repo,
                name,
                revision=info.sha,
                cache_dir=hub_folder(cache_dir),
                endpoint=endpoint,
                token=token,
                tqdm_class=_bar_class(progress, stage, done, total),
            )
        files[name] = Path(path)
        done += entries[name].size or 0
    progress(stage, total, total)
    with _explained(address):
        for name, file in files.items():
            _verify(address, name, file, entries[name])
        # Every file of a snapshot lies under the folder of its commit.
        last = names[-1]
        folder = files[last].parents[last.count("/")]
        keep(address, cache_dir, folder, {name: f.stat().st_size for name, f in files.items()})
    return folder if address.file is None else files[address.file]


@contextmanager
def _explained(address: Address) -> Iterator[None]:
    """Turn what huggingface_hub raises into a SourceError that says what to do."""
    try:
        yield
    except hub_errors.GatedRepoError as error:
        raise SourceError(
            f"{address}: the model is gated; accept its terms on its page, then log in: "
            "hf auth login, or set plugins.settings.hub.token"
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"{address}: there is no such model, or it is private; check the spelling, or log in: "
            "hf auth login, or set plugins.settings.hub.token"
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise SourceError(f"{address}: there is no revision {address.revision}") from error
    except hub_errors.HfHubHTTPError as error:
        raise SourceError(f"{address}: the hub answered {_first_line(error)}") from error
    except (hub_errors.OfflineModeIsEnabled, hub_errors.LocalEntryNotFoundError) as error:
        raise SourceError(
            f"{address}: the hub cannot be reached or is switched off (HF_HUB_OFFLINE), and the "
            "model is not in the cache yet"
        ) from error
    except _NetworkError as error:
        raise SourceError(
            f"{address}: the hub cannot be reached ({_first_line(error)}), and the model is not "
            "in the cache yet"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(f"{address}: {_first_line(error)}") from error


def _verify(address: Address, name: str, file: Path, entry: Any) -> None:
    """Compare a file with the checksum in the hub's listing: sha256, or git's for small files."""
    size = file.stat().st_size
    if entry.lfs is not None:
        digest, wanted = hashlib.sha256(), entry.lfs.sha256
    elif entry.blob_id is not None:
        # A git blob: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        digest, wanted = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), entry.blob_id
    else:
        raise SourceError(f"{address}: the hub has no checksum for {name}")
    with file.open("rb") as source:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != wanted:
        file.resolve().unlink(missing_ok=True)  # or the next fetch would take it for complete
        raise SourceError(f"{address}: {name} has another checksum than the hub says; fetch again")


def _bar_class(progress: Progress, stage: str, before: int, total: int) -> Any:
    """Make a stand-in for tqdm's class that passes what is done on to `progress`."""

    class Bar:
        """As much of tqdm as huggingface_hub uses."""

        def __init__(self, *args: Any, initial: int = 0, **settings: Any) -> None:
            self.n = initial
            self.total = settings.get("total")
            self.format_dict: dict[str, Any] = {}

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None:
            self.close()

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            progress(stage, min(before + self.n, total), total)

        def update_transfer(self, n: float | None = 1) -> None:
            """Bytes on the wire; those that are written count."""

        def close(self) -> None:
            """Nothing to close."""

        def refresh(self, *args: Any, **settings: Any) -> None:
            """Nothing to draw."""

        set_postfix_str = set_transfer_postfix_str = set_description = refresh

    return Bar


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
