"""Client and worker, in real processes: streams, aborts, deaths, restarts, clean ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from engine.fake_model import expected_output, make_request, output_of

from llmplug import (
    CheckpointError,
    ContextLengthExceeded,
    EngineError,
    EngineUnavailable,
    InvalidRequest,
    UnsupportedParameter,
)
from llmplug.engine import client as client_module
from llmplug.engine.client import EngineClient
from llmplug.engine.process import EngineProcess
from llmplug.types import FinishReason

WORKER = Path(__file__).parent / "fake_worker.py"
ARGV = [sys.executable, "-W", "error", str(WORKER)]


@pytest.fixture(autouse=True)
def own_temporary_folder(monkeypatch, tmp_path_factory):
    """All sockets in one folder; nothing may be left of them."""
    folder = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield folder
    assert list(folder.iterdir()) == []


@asynccontextmanager
async def running(*, is_ready: bool = True, **options):
    client = EngineClient(ARGV, json.dumps(options).encode())
    await client.start()
    try:
        if is_ready:
            await client.wait_ready()
        yield client
    finally:
        await client.stop()


async def until(condition, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)


async def collect(client, request):
    return [delta async for delta in client.generate(request)]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_requests_run_side_by_side_and_give_the_known_tokens() -> None:
    async with running() as client:
        ready = await client.wait_ready()
        assert (ready.vocab_size, ready.num_pages, ready.page_size) == (97, 64, 4)
        assert client.loading.stage == "reading"
        prompts = [[i, i + 1, i + 2] for i in range(20)]
        requests = [make_request(str(i), prompt) for i, prompt in enumerate(prompts)]
        found = await asyncio.gather(*(collect(client, request) for request in requests))
        for prompt, deltas in zip(prompts, found, strict=True):
            assert output_of(deltas) == expected_output(prompt, 8)
            assert deltas[-1].finish_reason is FinishReason.LENGTH
        assert client.stats.num_generated_tokens == 160
        several = await collect(client, make_request("n", [1, 2], num_sequences=3))
        assert {d.index for d in several} == {0, 1, 2}
        pid = client.pid
    assert not is_alive(pid)
    assert client.state == "dead"


async def test_refusals_are_told_before_and_behind_the_socket() -> None:
    async with running() as client:
        with pytest.raises(InvalidRequest) as caught:
            await collect(client, make_request("a", [1], temperature=float("nan")))
        assert caught.value.param == "temperature"
        with pytest.raises(ContextLengthExceeded):
            await collect(client, make_request("a", [1] * 5000))
        with pytest.raises(UnsupportedParameter) as refused:  # only the engine knows its samplers
            await collect(client, make_request("a", [1], extra={"unheard_of": 3}))
        assert refused.value.param == "unheard_of"
        assert output_of(await collect(client, make_request("a", [1]))) == expected_output([1], 8)


async def test_closing_a_generator_aborts_its_request() -> None:
    async with running(step_s=0.01) as client:
        stream = client.generate(make_request("long", [1, 2], max_tokens=200, num_sequences=2))
        await anext(stream)
        await stream.aclose()
        await collect(client, make_request("other", [3], max_tokens=1))
        await until(lambda: client.stats.num_pages_used == 0)
        assert client.stats.num_running == 0
        assert client.stats.num_generated_tokens < 100


async def test_abort_ends_one_sequence() -> None:
    async with running(step_s=0.005) as client:
        reasons = {}
        async for delta in client.generate(
            make_request("a", [1, 2], max_tokens=100, num_sequences=2)
        ):
            if not reasons:
                await client.abort("a", 0)
            reasons[delta.index] = delta.finish_reason
        assert reasons == {0: FinishReason.ABORT, 1: FinishReason.LENGTH}


async def test_a_failed_start_tells_why() -> None:
    async with running(fails=True, is_ready=False) as client:
        with pytest.raises(CheckpointError, match="tensor x is missing"):
            await client.wait_ready()
        assert client.state == "failed"
        with pytest.raises(EngineUnavailable):
            await collect(client, make_request("a", [1]))


async def test_a_start_that_dies_tells_how() -> None:
    async with running(exits=True, is_ready=False) as client:
        with pytest.raises(EngineUnavailable, match="exited with status 7 while loading"):
            await client.wait_ready()
        assert client.state == "failed"


async def test_a_program_that_is_not_there() -> None:
    client = EngineClient(["/no/such/program"], b"")
    await client.start()
    with pytest.raises(EngineError, match="cannot run"):
        await client.wait_ready()
    await client.stop()


async def test_stop_while_it_loads() -> None:
    async with running(hangs=True, is_ready=False) as client:
        await until(lambda: client.loading is not None)
        pid = client.pid
        assert client.state == "loading"
    assert not is_alive(pid)


async def test_a_killed_engine_restarts_and_replays_what_sent_nothing(
    monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    async with running(die_once=str(tmp_path / "died"), step_s=0.01) as client:
        streaming = client.generate(make_request("streaming", [1, 2], max_tokens=200))
        await anext(streaming)
        first = client.pid
        poison = asyncio.create_task(collect(client, make_request("poison", [90, 1])))
        with pytest.raises(EngineUnavailable, match="started again"):
            async for _ in streaming:
                pass
        assert output_of(await poison) == expected_output([90, 1], 8)
        assert client.state == "ready"
        assert client.pid != first
        assert not is_alive(first)


async def test_a_process_that_runs_ahead_is_the_first_and_the_next_is_like_it(monkeypatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    ahead = EngineProcess(ARGV)
    client = EngineClient(ARGV, b"{}", first_process=ahead)
    assert (client.state, client.pid) == ("loading", None)
    await client.start()
    try:
        await client.wait_ready()
        assert client.pid == ahead.pid
        os.kill(ahead.pid, signal.SIGKILL)
        await until(lambda: client.state == "ready" and client.pid != ahead.pid)
        assert output_of(await collect(client, make_request("a", [1]))) == expected_output([1], 8)
    finally:
        await client.stop()
    ahead.discard()  # whoever started it need not know that it was taken over


async def test_a_process_that_died_while_it_ran_ahead_tells_how() -> None:
    with EngineProcess(ARGV) as ahead:
        os.kill(ahead.pid, signal.SIGKILL)
        payload = json.dumps({"padding": "x" * 2**20}).encode()  # more than a pipe holds
        client = EngineClient(ARGV, payload, first_process=ahead)
        await client.start()
        with pytest.raises(EngineUnavailable, match="killed by signal 9 while loading"):
            await client.wait_ready()
        await client.stop()


async def test_a_payload_may_be_longer_than_a_pipe() -> None:
    async with running(padding="x" * 2**20) as client:
        assert output_of(await collect(client, make_request("a", [1]))) == expected_output([1], 8)


def test_a_process_that_nobody_talks_to_is_discarded() -> None:
    with EngineProcess(ARGV) as ahead:
        assert is_alive(ahead.pid)
    assert not is_alive(ahead.pid)


async def test_turns_in_its_life_are_told_while_its_requests_are_open(monkeypatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    told = []
    async with running(step_s=0.01, is_ready=False) as client:
        client.on_event = lambda event, why: told.append((event, why, len(client._open)))
        await client.wait_ready()
        stream = client.generate(make_request("a", [1, 2], max_tokens=200))
        await anext(stream)
        os.kill(client.pid, signal.SIGKILL)
        await until(lambda: len(told) == 3)
        with pytest.raises(EngineUnavailable):
            await anext(stream)
    assert [event for event, _, _ in told] == ["ready", "death", "ready"]
    assert told[1][2] == 1
    assert "was killed by signal 9 while serving" in told[1][1]


async def test_a_request_that_kills_twice_is_not_asked_again(monkeypatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    async with running() as client:
        with pytest.raises(EngineError, match="died twice while this request ran"):
            await collect(client, make_request("poison", [90]))
        await until(lambda: client.state == "ready")
        assert output_of(await collect(client, make_request("a", [1]))) == expected_output([1], 8)


async def test_no_request_kills_an_engine_for_good(monkeypatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(client_module, "LAST_BACKOFF_S", 0.02)
    async with running() as client:
        for _ in range(4):  # eight deaths
            with pytest.raises(EngineError, match="died twice"):
                await collect(client, make_request("poison", [90]))
            await until(lambda: client.state == "ready")
        assert output_of(await collect(client, make_request("a", [1]))) == expected_output([1], 8)


async def test_an_engine_that_does_not_come_up_again_is_given_up(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(client_module, "MAX_FAILED_LOADS", 2)
    marker = tmp_path / "loads once"
    async with running(load_once=str(marker)) as client:
        with pytest.raises(EngineUnavailable, match="exited with status 5 while loading"):
            await collect(client, make_request("poison", [90]))
        assert client.state == "dead"
        with pytest.raises(EngineUnavailable):
            await client.wait_ready()


async def test_a_stall_shows() -> None:
    async with running() as client:
        assert client.stalled_s == 0
        task = asyncio.create_task(collect(client, make_request("hangs", [91])))
        await until(lambda: client.stalled_s > 0.1)
        os.kill(client.pid, signal.SIGKILL)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_ctrl_c_is_left_to_the_parent() -> None:
    async with running() as client:
        os.kill(client.pid, signal.SIGINT)
        assert output_of(await collect(client, make_request("a", [1]))) == expected_output([1], 8)


async def test_an_idle_engine_uses_no_processor() -> None:
    async with running() as client:
        await collect(client, make_request("a", [1]))

        def processor_s() -> float:
            fields = Path(f"/proc/{client.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        before = processor_s()
        started = time.monotonic()
        await until(lambda: time.monotonic() - started > 1.0)
        assert processor_s() - before <= 0.03


PARENT = """
import asyncio, os, signal, sys
sys.path[:0] = [sys.argv[1]]
from engine.test_client import running

async def main():
    async with running() as client:
        print(client.pid, flush=True)
        if "fork" in sys.argv:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            print(pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
async def test_an_orphan_ends_and_cleans_up(own_temporary_folder, signum) -> None:
    parent = subprocess.Popen(  # noqa: ASYNC220 - a line of output is all that is awaited
        [sys.executable, "-c", PARENT, str(WORKER.parents[1])], stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    assert is_alive(pid)
    (folder,) = own_temporary_folder.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "engine").stat().st_mode & 0o777 == 0o600
    parent.send_signal(signum)
    parent.wait()
    parent.stdout.close()
    await until(lambda: not is_alive(pid))
    await until(lambda: not list(own_temporary_folder.iterdir()))


async def test_an_orphan_ends_though_its_pipe_lives_on(own_temporary_folder) -> None:
    """Another child of its parent may hold the other end of its stdin open."""
    parent = subprocess.Popen(  # noqa: ASYNC220 - lines of output are all that is awaited
        [sys.executable, "-W", "ignore", "-c", PARENT, str(WORKER.parents[1]), "fork"],
        stdout=subprocess.PIPE,
        text=True,
    )
    pid, holder = (int(parent.stdout.readline()) for _ in range(2))
    try:
        parent.kill()
        parent.wait()
        await until(lambda: not is_alive(pid))
        assert is_alive(holder)
    finally:
        os.kill(holder, signal.SIGKILL)
        parent.stdout.close()
    await until(lambda: not list(own_temporary_folder.iterdir()))


AHEAD = """
import signal, sys
sys.path[:0] = [sys.argv[1]]
from engine.test_client import ARGV, EngineProcess

ahead = EngineProcess(ARGV)
print(ahead.pid, flush=True)
signal.pause()
"""


async def test_an_orphan_that_ran_ahead_ends_and_cleans_up(own_temporary_folder) -> None:
    parent = subprocess.Popen(  # noqa: ASYNC220 - a line of output is all that is awaited
        [sys.executable, "-c", AHEAD, str(WORKER.parents[1])], stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    await until(lambda: not is_alive(pid))
    await until(lambda: not list(own_temporary_folder.iterdir()))
