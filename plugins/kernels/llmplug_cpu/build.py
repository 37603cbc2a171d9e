"""Makes the library of kernels with the system's C++ compiler, once for each version of it.

The library's name is a hash of all that it is made from, so a new version never meets an old file.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmplug import PluginError

SOURCES = Path(__file__).parent / "csrc"
COMPILERS = ("c++", "g++", "clang++")
CPU_FLAGS = ("avx2", "fma", "f16c")  # as /proc/cpuinfo spells them, and the compiler after -m
COMPILE_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-pthread",
    "-fvisibility-inlines-hidden",
    # Sums are fused where the source says so and nowhere else: results do not depend on the
    # compiler, nor on which loop a token falls into.
    "-ffp-contract=off",
    *(f"-m{flag}" for flag in CPU_FLAGS),
)
COMPILE_TIMEOUT_S = 300


@functools.cache
def find_reason_against() -> str | None:
    """Say why the kernels cannot run on this machine, or None. Compiles nothing."""
    if sys.platform != "linux" or platform.machine() not in {"x86_64", "AMD64"}:
        return f"it needs linux on x86-64, this is {sys.platform} on {platform.machine()}"
    missing = [flag for flag in CPU_FLAGS if flag not in _read_cpu_flags()]
    if missing:
        return f"the cpu has no {', '.join(missing)}"
    if _find_compiler() is None:
        return f"no C++ compiler is installed ({', '.join(COMPILERS)})"
    return None


def find_or_build(cache_dir: Path | None = None) -> Path:
    """Return the compiled library, made now (about ten seconds) unless it is in the cache.

    Processes that build at the same time do not disturb each other: each renames a finished file.

    Args:
        cache_dir: default `~/.cache/llmplug/kernels`, or where XDG_CACHE_HOME says.

    Raises:
        PluginError: there is no compiler, or it fails.
    """
    compiler = _find_compiler()
    if compiler is None:
        raise PluginError(f"no C++ compiler is installed; looked for {', '.join(COMPILERS)}")
    folder = cache_dir or _default_cache_dir()
    library = folder / f"llmplug_cpu-{_hash_inputs(compiler)}.so"
    if not library.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            _compile(compiler, Path(work) / library.name)
            os.replace(Path(work) / library.name, library)
    return library


def _compile(compiler: str, target: Path) -> None:
    """Compile each source on its own, as many at once as there are CPUs, and link."""
    waiting = sorted(SOURCES.glob("*.cpp"))
    objects = [target.with_name(f"{source.stem}.o") for source in waiting]
    commands = [
        [compiler, *COMPILE_FLAGS, "-c", str(source), "-o", str(obj)]
        for source, obj in zip(waiting, objects, strict=True)
    ]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(_run, commands))
    _run([compiler, "-shared", "-pthread", *map(str, objects), "-o", str(target)])


def _run(command: list[str]) -> None:
    try:
        result = subprocess.run(  # noqa: S603 - the compiler, on our own sources
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=COMPILE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise PluginError(f"the C++ compiler took more than {COMPILE_TIMEOUT_S} s") from None
    if result.returncode != 0:
        raise PluginError(f"the C++ compiler failed on the CPU kernels:\n{result.stdout[-4000:]}")


def _hash_inputs(compiler: str) -> str:
    version = subprocess.run(  # noqa: S603 - the compiler
        [compiler, "--version"], capture_output=True, text=True, check=False, timeout=30
    ).stdout
    digest = hashlib.sha256(repr((COMPILE_FLAGS, version)).encode())
    for source in sorted(SOURCES.iterdir()):
        if source.suffix in {".cpp", ".h"}:
            digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _find_compiler() -> str | None:
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)


def _default_cache_dir() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "llmplug" / "kernels"


@functools.cache
def _read_cpu_flags() -> frozenset[str]:
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
