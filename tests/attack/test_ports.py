"""What a server opens: its one address, and sockets that nobody else of the machine may use."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmplug.attack.leftovers import find_processes

from .tiny_server import TinyServer

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="reads /proc")

LISTENS = "0A"
LOOPBACK = "0100007F"  # 127.0.0.1, as the kernel writes it


def find_inodes(pid: int) -> set[str]:
    """The sockets that the processes of a server hold."""
    found = set()
    for process in find_processes(pid):
        for file in Path(f"/proc/{process}/fd").iterdir():
            target = os.readlink(file)
            if target.startswith("socket:["):
                found.add(target.removeprefix("socket:[").removesuffix("]"))
    return found


def read_table(name: str) -> Iterator[list[str]]:
    """The rows of one of the kernel's tables of sockets."""
    for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
        yield line.split()


def test_one_port_is_open(tiny_server: TinyServer) -> None:
    inodes = find_inodes(tiny_server.pid)
    listening = [
        row[1] for name in ("tcp", "tcp6") for row in read_table(name)
        if row[3] == LISTENS and row[9] in inodes
    ]  # fmt: skip
    port = int(tiny_server.url.rsplit(":", 1)[1])
    assert listening == [f"{LOOPBACK}:{port:04X}"]
    datagrams = [row[1] for name in ("udp", "udp6") for row in read_table(name) if row[9] in inodes]
    assert datagrams == []


def test_sockets_of_engines_are_their_owners_alone(tiny_server: TinyServer) -> None:
    inodes = find_inodes(tiny_server.pid)
    paths = {Path(row[7]) for row in read_table("unix") if row[6] in inodes and len(row) > 7}
    files = [path for path in paths if path.is_absolute()]
    assert files
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
