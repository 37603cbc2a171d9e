"""Requests over raw sockets, and when each of their tokens came.

Runs in processes of its own (`python -m benchmarks.client`, a job in JSON on stdin, timings in
JSON on stdout), so that parsing takes no time from the harness, and none is charged to a server.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from benchmarks.workload import spell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

REQUEST_TIMEOUT_S = 590.0


# How prompts are sent: as token ids, as text, as one message of a chat.
PATHS = {"tokens": "/v1/completions", "text": "/v1/completions", "chat": "/v1/chat/completions"}


class Job(msgspec.Struct, frozen=True):
    """What one client process does: keep `concurrency` requests running until all are sent."""

    url: str  # http://host:port
    model: str
    prompts: list[list[int]]
    output_tokens: int
    concurrency: int
    api: str = "tokens"  # one of PATHS
    fields: dict[str, Any] = {}  # of the request, besides or instead of ours; null takes one away
    needs_done: bool = True  # whether a stream without a `[DONE]` at its end is a failure


class Timing(msgspec.Struct):
    """One request. Times are seconds of the system's monotonic clock, shared by all processes."""

    started: float
    content_times: list[float] = []
    ended: float = 0.0
    output_tokens: int = 0
    prompt_tokens: int = 0  # as the server counts them, or else as many as were sent
    cached_tokens: int | None = None  # of the prompt; None: the server does not say
    failure: str = ""


class _Message(msgspec.Struct):
    content: str | None = ""


class _Choice(msgspec.Struct):
    text: str | None = ""
    delta: _Message | None = None

    @property
    def has_text(self) -> bool:
        return bool(self.text or (self.delta and self.delta.content))


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode


class _RefusedError(Exception):
    """The server did not answer as the API says."""


async def read_body(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the body of an HTTP/1.1 response as it comes; raises _RefusedError but for a 200."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = head.split(b" ", 2)[1]
    if status != b"200":
        body = await reader.read(500)
        raise _RefusedError(f"HTTP {status.decode()}: {body.decode(errors='replace')}")
    if b"transfer-encoding: chunked" not in head.lower():
        while part := await reader.read(65_536):
            yield part
        return
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def read_events(reader: asyncio.StreamReader, needs_done: bool) -> AsyncIterator[bytes]:
    """Yield the data of server-sent events, up to and without `[DONE]`.

    Raises:
        _RefusedError: the stream ends without it, though it needs one.
    """
    rest = b""
    async for part in read_body(reader):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield data
    if needs_done:
        raise _RefusedError("the stream ends without [DONE]")


async def _follow(reader: asyncio.StreamReader, timing: Timing, needs_done: bool) -> None:
    async for data in read_events(reader, needs_done):
        now = time.monotonic()
        event = _decode_event(data)
        if event.error is not None:
            raise _RefusedError(str(event.error))
        if any(choice.has_text for choice in event.choices):
            timing.content_times.append(now)
        if event.usage is not None:
            timing.output_tokens = event.usage.completion_tokens
            timing.prompt_tokens = event.usage.prompt_tokens or timing.prompt_tokens
            if event.usage.prompt_tokens_details is not None:
                timing.cached_tokens = event.usage.prompt_tokens_details.cached_tokens


def make_request(job: Job, prompt: Sequence[int]) -> bytes:
    """Write the HTTP request for one prompt."""
    fields: dict[str, Any] = {
        "model": job.model,
        "max_tokens": job.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if job.api == "chat":
        fields["messages"] = [{"role": "user", "content": spell(prompt)}]
    else:
        fields["prompt"] = prompt if job.api == "tokens" else spell(prompt)
    fields |= job.fields
    body = msgspec.json.encode({key: value for key, value in fields.items() if value is not None})
    head = (
        f"POST {PATHS[job.api]} HTTP/1.1\r\nHost: {urlsplit(job.url).netloc}\r\n"
        "Connection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def send(job: Job, prompt: Sequence[int]) -> Timing:
    """Send one streamed request and time it; never raises for what the server does."""
    parts = urlsplit(job.url)
    request = make_request(job, prompt)
    timing = Timing(started=time.monotonic(), prompt_tokens=len(prompt))
    writer = None
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            timing.started = time.monotonic()
            writer.write(request)
            await _follow(reader, timing, job.needs_done)
    except (OSError, EOFError, TimeoutError, msgspec.MsgspecError, _RefusedError) as error:
        timing.failure = f"{type(error).__name__}: {error}"
    finally:
        if writer is not None:
            writer.close()
    timing.ended = time.monotonic()
    if not timing.failure and timing.output_tokens != job.output_tokens:
        timing.failure = f"{timing.output_tokens} tokens instead of {job.output_tokens}"
    if not timing.failure and not timing.content_times:
        timing.failure = "no text"
    return timing


async def run_job(job: Job) -> list[Timing]:
    """Send all prompts, `concurrency` at a time, the next one when one ends."""
    waiting = list(reversed(job.prompts))
    timings: list[Timing] = []

    async def work() -> None:
        while waiting:
            timings.append(await send(job, waiting.pop()))

    async with asyncio.TaskGroup() as group:
        for _ in range(job.concurrency):
            group.create_task(work())
    return timings


def split_job(job: Job, num_processes: int) -> list[Job]:
    """Deal prompts and concurrency out to processes; none is left without work."""
    count = min(num_processes, job.concurrency, len(job.prompts))
    return [
        msgspec.structs.replace(
            job,
            prompts=job.prompts[index::count],
            concurrency=job.concurrency // count + (index < job.concurrency % count),
        )
        for index in range(count)
    ]


def run_clients(job: Job, num_processes: int = 1) -> list[Timing]:
    """Run a job in client processes and collect the timings, in no particular order."""
    command = [sys.executable, "-m", "benchmarks.client"]
    running = [
        (subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE), part)
        for part in split_job(job, num_processes)
    ]
    try:
        for process, part in running:
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(part))
            process.stdin.close()
        return [timing for process, _ in running for timing in _collect(process)]
    finally:
        for process, _ in running:
            process.kill()  # of no effect on one that has ended
            process.wait()


def _collect(process: subprocess.Popen[bytes]) -> list[Timing]:
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    if process.wait() != 0:
        raise RuntimeError(f"a client process ended with {process.returncode}")
    return msgspec.json.decode(output, type=list[Timing])


if __name__ == "__main__":
    the_job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(run_job(the_job))))
