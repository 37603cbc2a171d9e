"""A rank that is killed, whenever that is: its engine comes back whole, and requests end well."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.processes import list_roles, list_tree, read_rss
from benchmarks.server import ServerProcess
from benchmarks.soak.replies import read_stream, read_whole

from .tiny_server import open_tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc"),
]

DEADLINE_S = 240.0
# On an idle machine it takes less than ten; one that is busy with other tests takes its time.
BACK_S = 90.0
PATH = "/v1/completions"
BODY = {"model": "tiny", "prompt": "Once", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
LONG = {**BODY, "max_tokens": 900}
NUM_CLIENTS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which servers make the folders of their sockets."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("s")
        patch.setenv("TMPDIR", str(path))
        yield path


@pytest.fixture(scope="module")
def server(folder: Path, sockets: Path) -> Iterator[ServerProcess]:
    with open_tiny(folder, "models.0.parallel.tensor=2") as server:
        yield server
        members = list_tree(server.pid)
    assert not any(read_rss(pid) for pid in members)
    assert list_folders(sockets) == []


@pytest.fixture
async def http(server: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=server.url, timeout=DEADLINE_S, limits=limits, trust_env=False
    ) as http:
        yield http


def list_ranks(pid: int) -> list[int]:
    """The processes of the server's engine, by rank."""
    return [member for member, role in list_roles(pid) if role == "engine"]


def list_folders(sockets: Path) -> list[Path]:
    return sorted(sockets.iterdir())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - of other processes
            await asyncio.sleep(0.005)


async def until_ranks(server: ServerProcess, gone: list[int]) -> list[int]:
    """Wait until there are two that are none of those."""
    await until(lambda: len(ranks := list_ranks(server.pid)) > 1 and not set(ranks) & set(gone))
    return list_ranks(server.pid)


async def until_back(http: httpx.AsyncClient, killed_at: float) -> float:
    """Wait until the server is not ready, and then is; return the seconds since the kill."""
    async with asyncio.timeout(DEADLINE_S):
        for status in (503, 200):
            while (await http.get("/ready")).status_code != status:  # noqa: ASYNC110 - of others
                await asyncio.sleep(0.02)
    return time.monotonic() - killed_at


async def answer(http: httpx.AsyncClient) -> str:
    reply = await http.post(PATH, json=BODY)
    return read_whole(PATH, reply.raise_for_status().json()).text


async def ask_for_long(http: httpx.AsyncClient, has_begun: asyncio.Event) -> str:
    """Stream an answer that takes long; return how it ended, "" or the code of an error."""
    lines = []
    async with http.stream("POST", PATH, json={**LONG, "stream": True}) as stream:
        assert stream.status_code == 200
        async for line in stream.aiter_lines():
            lines.append(line)
            has_begun.set()
    return read_stream(PATH, "\n".join(lines)).error  # raises unless it has exactly one end


@pytest.mark.parametrize("rank", [0, 1])
async def test_killed_while_it_answers(
    server: ServerProcess, http: httpx.AsyncClient, rank: int
) -> None:
    before = await answer(http)
    ranks = await until_ranks(server, gone=[])
    begun = [asyncio.Event() for _ in range(NUM_CLIENTS)]
    streams = [asyncio.create_task(ask_for_long(http, each)) for each in begun]
    whole = asyncio.create_task(http.post(PATH, json=LONG))
    await asyncio.gather(*(each.wait() for each in begun))
    killed_at = time.monotonic()
    os.kill(ranks[rank], signal.SIGKILL)
    assert set(await asyncio.gather(*streams)) == {"engine_unavailable"}
    print(f"back after {await until_back(http, killed_at):.1f} s")
    assert (await whole).status_code in {200, 503}  # 200 if it had not begun: it is asked again
    assert await answer(http) == before
    assert not set(await until_ranks(server, gone=ranks)) & set(ranks)


@pytest.mark.parametrize("rank", [0, 1])
async def test_killed_while_nobody_asks(
    server: ServerProcess, http: httpx.AsyncClient, folder: Path, rank: int
) -> None:
    """Nobody tries to reach it; that it is gone is found out all the same, and told."""
    ranks = await until_ranks(server, gone=[])
    log = (folder / "log.txt").stat().st_size
    killed_at = time.monotonic()
    os.kill(ranks[rank], signal.SIGKILL)
    back_s = await until_back(http, killed_at)
    print(f"back after {back_s:.1f} s")
    assert back_s < BACK_S
    told = (folder / "log.txt").read_bytes()[log:].decode()
    who = "the process of rank 1" if rank else "the engine's process"
    assert told.count(f"{who} was killed by signal 9 while serving") == 1
    assert not any(read_rss(pid) for pid in ranks)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("is_meeting", [False, True])
async def test_killed_while_it_loads(
    server: ServerProcess, http: httpx.AsyncClient, sockets: Path, is_meeting: bool, rank: int
) -> None:
    """At the moment that it is there, or when rank 0 waits for it to have imported all."""
    ranks = await until_ranks(server, gone=[])
    os.kill(ranks[0], signal.SIGKILL)
    loading = await until_ranks(server, gone=ranks)
    if is_meeting:
        await until(lambda: any(sockets.glob("*/engine.ranks")))
    killed_at = time.monotonic()
    os.kill(loading[rank], signal.SIGKILL)
    await until_ranks(server, gone=loading)
    print(f"back after {await until_back(http, killed_at):.1f} s")
    assert await answer(http)


async def test_all_ranks_end_with_the_server(tmp_path: Path, sockets: Path) -> None:
    before = list_folders(sockets)
    with open_tiny(tmp_path, "models.0.parallel.tensor=2") as server:
        members = list_tree(server.pid)
        assert len(list_ranks(server.pid)) == 2
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: not any(read_rss(pid) for pid in members))
    assert list_folders(sockets) == before
