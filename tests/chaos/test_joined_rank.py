"""A model with ranks on two machines, which here are two addresses: what is lost comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.processes import list_roles, list_tree, read_rss
from benchmarks.server import find_free_port
from tests.served import Process, serving
from tests.tiny import make_checkpoint

from .test_killed_rank import BODY, DEADLINE_S, PATH, answer, ask_for_long

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc"),
]

NOT_READY = ("loading", "dead")
SECRET = "what only the tests know"
CONFIG = """
server: {{port: 0, responses: {{path: memory}}, batches: {{path: none}}}}
models:
- {{name: tiny, {settings}, parallel: {{tensor: 2, nodes: 2, address: "127.0.0.1:{port}",
    secret: "${{RANKS_SECRET}}"}}}}
- {{name: alone, {settings}}}
"""
SETTINGS = "source: {source}, device: cpu, threads: 1, cache: {{memory: 16MiB}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With a config, for both machines."""
    folder = tmp_path_factory.mktemp("joined")
    source = make_checkpoint("llama", folder / "model", max_position_embeddings=1024)
    settings = SETTINGS.format(source=source)
    text = CONFIG.format(settings=settings, port=find_free_port())
    (folder / "config.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANKS_SECRET", SECRET)
        yield folder


@asynccontextmanager
async def joined(
    folder: Path, http: httpx.AsyncClient, *words: str
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """What runs on the second machine; it is ended afterwards, and the server knows."""
    argv = [sys.executable, "-m", "llmplug", "join", "--config", str(folder / "config.yaml")]
    with (folder / "join.txt").open("ab") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - it takes no time
            [*argv, "--node", "1", *words], stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
        await until_tiny_is(http, *NOT_READY)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Process]:
    with serving((folder / "config.yaml").read_text(), folder) as server:
        yield server
        members = list_tree(server.popen.pid)
    assert not any(read_rss(pid) for pid in members)


@pytest.fixture
async def http(server: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as http:
        yield http


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - of other processes
            await asyncio.sleep(0.02)


async def until_tiny_is(http: httpx.AsyncClient, *states: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await read_tiny(http))["state"] not in states:  # noqa: ASYNC110 - of others
            await asyncio.sleep(0.02)


async def read_tiny(http: httpx.AsyncClient) -> dict[str, Any]:
    """What the server says of the model on two machines."""
    models = (await http.get("/health")).json()["models"]
    (tiny,) = [each for each in models if each["model"] == "tiny"]
    return dict(tiny)


def find_rank(join: subprocess.Popen[bytes]) -> int:
    (rank,) = list_tree(join.pid)[1:]
    return rank


async def test_a_server_waits_for_those_who_join(
    server: Process, http: httpx.AsyncClient, folder: Path
) -> None:
    """And what they then answer together is what one rank answers."""
    await until(lambda: "waiting at 127.0.0.1" in server.log.read_text())
    tiny = await read_tiny(http)
    assert (tiny["stage"], tiny["done"], tiny["total"]) == ("ranks", 1, 2)
    async with joined(folder, http):
        await until_tiny_is(http, "ready")
        one, two = [
            (await http.post(PATH, json={**BODY, "model": model, "logprobs": 1})).json()["choices"]
            for model in ("alone", "tiny")
        ]
    assert two[0]["text"] == one[0]["text"]
    assert two[0]["logprobs"]["token_logprobs"] == pytest.approx(
        one[0]["logprobs"]["token_logprobs"], abs=1e-4
    )
    assert SECRET not in server.log.read_text() + (folder / "join.txt").read_text()


@pytest.mark.parametrize("who", ["the joined rank", "rank 0"])
async def test_killed_while_they_answer(
    server: Process, http: httpx.AsyncClient, folder: Path, who: str
) -> None:
    async with joined(folder, http) as join:
        await until_tiny_is(http, "ready")
        before = await answer(http)
        begun = [asyncio.Event() for _ in range(4)]
        streams = [asyncio.create_task(ask_for_long(http, each)) for each in begun]
        await asyncio.gather(*(each.wait() for each in begun))
        killed_at = time.monotonic()
        os.kill(find_rank(join) if who == "the joined rank" else find_rank_0(server), 9)
        assert set(await asyncio.gather(*streams)) == {"engine_unavailable"}
        await until_tiny_is(http, *NOT_READY)
        await until_tiny_is(http, "ready")
        print(f"back after {time.monotonic() - killed_at:.1f} s")
        assert await answer(http) == before
    if who == "the joined rank":
        assert "rank 1 of node 1 (127.0.0.1) was lost while serving" in server.log.read_text()


def find_rank_0(server: Process) -> int:
    """The engine that has the ranks' address in its hands: the first model's."""
    engines = [pid for pid, role in list_roles(server.popen.pid) if role == "engine"]
    (rank_0,) = [pid for pid in engines if is_listening(pid)]
    return rank_0


def is_listening(pid: int) -> bool:
    """Whether a process has a socket of the network that others can come to."""
    rows = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    listening = {f"socket:[{row.split()[9]}]" for row in rows if row.split()[3] == "0A"}
    return any(os.readlink(each) in listening for each in Path(f"/proc/{pid}/fd").iterdir())


async def test_a_machine_that_is_lost_is_waited_for(
    server: Process, http: httpx.AsyncClient, folder: Path
) -> None:
    async with joined(folder, http) as join:
        await until_tiny_is(http, "ready")
        rank = find_rank(join)
        join.kill()
        await until(lambda: not read_rss(rank))  # it ends with who has started it
    reply = await http.post(PATH, json=BODY)
    assert reply.status_code == 503
    assert (await http.post(PATH, json={**BODY, "model": "alone"})).status_code == 200
    async with joined(folder, http, "--set", "models.0.context_length=100"):
        difference = "models.tiny differs from that of rank 0: context_length is 100, not None"
        await until(lambda: difference in server.log.read_text())
    async with joined(folder, http) as join:
        await until_tiny_is(http, "ready")
        join.send_signal(signal.SIGTERM)
        assert join.wait(DEADLINE_S) == 0
