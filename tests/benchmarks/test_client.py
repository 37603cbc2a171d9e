"""The benchmark client against a small server whose answers are known to the byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.client import Job, Timing, run_clients, run_job

TEXT = 'data: {"choices": [{"index": 0, "text": "a"}]}\n\n'
EMPTY = 'data: {"choices": [{"index": 0, "text": ""}]}\n\n'
USAGE = 'data: {"choices": [], "usage": {"completion_tokens": 4}}\n\n'
DONE = "data: [DONE]\n\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


class FakeServer:
    """Answers every request with the same bytes and remembers the bodies."""

    def __init__(self, parts: list[bytes]) -> None:
        self.parts = parts
        self.bodies: list[dict[str, object]] = []
        self.paths: list[str] = []
        self.url = ""
        self.most_at_once = 0
        self._at_once = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.paths.append(head.split()[1])
        length = int(head.split("Content-Length: ")[1].split("\r\n")[0])
        self.bodies.append(json.loads(await reader.readexactly(length)))
        for part in self.parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()
        self._at_once -= 1


def chunked(text: str, size: int = 1_000_000) -> list[bytes]:
    pieces = [text[at : at + size].encode() for at in range(0, len(text), size)]
    framed = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    return [OK + b"Transfer-Encoding: chunked\r\n\r\n", *framed, b"0\r\n\r\n"]


@asynccontextmanager
async def serving(parts: list[bytes]) -> AsyncIterator[FakeServer]:
    fake = FakeServer(parts)
    server = await asyncio.start_server(fake.answer, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        fake.url = f"http://{host}:{port}"
        yield fake


async def request_once(parts: list[bytes]) -> Timing:
    async with serving(parts) as fake:
        (timing,) = await run_job(Job(fake.url, "m", [[1, 2]], 4, 1))
    return timing


@pytest.mark.parametrize(
    "parts",
    [
        chunked(EMPTY + 4 * TEXT + USAGE + DONE),
        chunked(EMPTY + 4 * TEXT + USAGE + DONE, size=7),
        chunked((EMPTY + 4 * TEXT + USAGE + DONE).replace("\n", "\r\n"), size=11),
        chunked(": heartbeat\n\n" + 4 * TEXT.replace(": {", ":{") + USAGE + DONE),
        [OK + b"\r\n", (4 * TEXT + USAGE + DONE).encode()],
    ],
    ids=["whole", "in-pieces", "crlf", "comments", "until-closed"],
)
async def test_every_framing_gives_the_same_tokens(parts: list[bytes]) -> None:
    timing = await request_once(parts)
    assert timing.failure == ""
    assert timing.output_tokens == 4
    assert len(timing.content_times) == 4
    times = [timing.started, *timing.content_times, timing.ended]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("parts", "failure"),
    [
        ([b"HTTP/1.1 429 Too Many\r\nContent-Length: 4\r\n\r\nbusy"], "HTTP 429: busy"),
        (chunked(4 * TEXT + USAGE), "without [DONE]"),
        (chunked(3 * TEXT + USAGE.replace("4", "3") + DONE), "3 tokens instead of 4"),
        (chunked(4 * TEXT + DONE), "0 tokens instead of 4"),
        (chunked(EMPTY + USAGE + DONE), "no text"),
        (chunked('data: {"error": {"message": "boom"}}\n\n' + DONE), "boom"),
        (chunked("data: {nonsense\n\n" + DONE), "DecodeError"),
        (chunked(TEXT)[:2], "IncompleteReadError"),
        ([b""], "IncompleteReadError"),
    ],
)
async def test_what_is_not_a_whole_answer_is_a_failure(parts: list[bytes], failure: str) -> None:
    timing = await request_once(parts)
    assert failure in timing.failure


async def test_requests_fix_the_length_and_never_exceed_the_concurrency() -> None:
    prompts = [[number, number + 1] for number in range(9)]
    async with serving(chunked(4 * TEXT + USAGE + DONE)) as fake:
        timings = await run_job(Job(fake.url, "m", prompts, 4, 3))
    assert len(timings) == 9
    assert fake.most_at_once == 3
    assert sorted(body["prompt"] for body in fake.bodies) == prompts
    body = fake.bodies[0]
    assert (body["max_tokens"], body["ignore_eos"], body["stream"]) == (4, True, True)


async def test_what_a_prompt_cost_is_read_from_the_usage() -> None:
    details = {"prompt_tokens": 9, "completion_tokens": 4}
    silent = await request_once(chunked(4 * TEXT + USAGE + DONE))
    assert (silent.prompt_tokens, silent.cached_tokens) == (2, None)  # as many as were sent
    details["prompt_tokens_details"] = {"cached_tokens": 7}
    event = "data: " + json.dumps({"choices": [], "usage": details}) + "\n\n"
    told = await request_once(chunked(4 * TEXT + event + DONE))
    assert (told.prompt_tokens, told.cached_tokens) == (9, 7)


async def test_chat_and_text_carry_words_in_place_of_ids() -> None:
    delta = 'data: {"choices": [{"delta": {"role": "assistant", "content": "a"}}]}\n\n'
    role = 'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n'
    async with serving(chunked(role + 4 * delta + USAGE + DONE)) as fake:
        jobs = [Job(fake.url, "m", [[3, 1, 3]], 4, 1, api=api) for api in ("chat", "text")]
        timings = [timing for job in jobs for timing in await run_job(job)]
    assert [timing.failure for timing in timings] == ["", ""]
    assert [len(timing.content_times) for timing in timings] == [4, 4]  # a role is no text
    chat, text = fake.bodies
    assert chat["messages"] == [{"role": "user", "content": text["prompt"]}]
    words = str(text["prompt"]).split()
    assert len(words) == 3
    assert words[0] == words[2] != words[1]
    assert fake.paths == ["/v1/chat/completions", "/v1/completions"]


async def test_fields_are_added_replaced_and_left_out() -> None:
    fields = {"ignore_eos": None, "temperature": 0.5, "min_tokens": 4}
    async with serving(chunked(4 * TEXT + USAGE + DONE)) as fake:
        await run_job(Job(fake.url, "m", [[1]], 4, 1, fields=fields))
    (body,) = fake.bodies
    assert "ignore_eos" not in body
    assert (body["temperature"], body["min_tokens"], body["max_tokens"]) == (0.5, 4, 4)


async def test_some_servers_need_not_say_that_they_are_done() -> None:
    async with serving(chunked(4 * TEXT + USAGE)) as fake:
        job = Job(fake.url, "m", [[1]], 4, 1, needs_done=False)
        (timing,) = await run_job(job)
    assert timing.failure == ""


async def test_client_processes_share_the_work() -> None:
    prompts = [[number] for number in range(5)]
    async with serving(chunked(4 * TEXT + USAGE + DONE)) as fake:
        job = Job(fake.url, "m", prompts, 4, 2)
        timings = await asyncio.to_thread(run_clients, job, 2)
    assert sorted(body["prompt"] for body in fake.bodies) == prompts
    assert [timing.failure for timing in timings] == [""] * 5


async def test_refused_connection_is_a_failure() -> None:
    async with serving([]) as fake:
        url = fake.url
    (timing,) = await run_job(Job(url, "m", [[1]], 4, 1))
    assert "refused" in timing.failure.lower() or "Connect" in timing.failure
