"""What thousands of refusals and of vanished clients leave in a server: nothing."""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmplug.attack.attacker import GENERATING, WHOLESOME, Attacker
from llmplug.attack.crowds import leave
from llmplug.attack.leftovers import ProcessMemory, expect_no_state, expect_ready
from llmplug.conformance.target import Target

from .tiny_server import TinyServer

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")

NUM_REFUSED = 10_000
NUM_GONE = 1000
NUM_CLIENTS = 8
MAX_NEW_FILES = 8  # a pool may have opened a connection more
QUESTION = [{"role": "user", "content": "x"}]
REFUSED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": -1}),
    ("/v1/completions", {"model": "tiny", "prompt": [10**6]}),
    ("/v1/completions", {"model": "tiny", "prompt": ["x"] * 100, "n": 100}),
    ("/v1/chat/completions", {"model": "tiny", "messages": [], "stream": True}),
    ("/v1/chat/completions", {"model": "tiny", "messages": QUESTION, "top_p": 0}),
    ("/v1/chat/completions", {"model": "tiny", "messages": QUESTION, "stop_token_ids": [999]}),
    ("/v1/chat/completions", {"model": "tiny", "messages": QUESTION, "tools": [{}]}),
    ("/v1/responses", {"model": "tiny", "input": "x" * 5000}),
    ("/v1/messages", {"model": "tiny", "messages": QUESTION}),
    ("/v1/embeddings", {"model": "tiny", "input": "x"}),
    ("/v1/chat/completions", {"model": "nobody", "messages": QUESTION}),
)


def refuse_many(target: Target, count: int) -> set[int]:
    """Send requests that are refused, all over one connection; return their statuses."""
    statuses = set()
    headers = {"Content-Type": "application/json", **target.headers_with_key}
    bodies = [(path, json.dumps(fields)) for path, fields in REFUSED]
    connection = target.connect()
    for number in range(count):
        path, body = bodies[number % len(bodies)]
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        answer.read()
        statuses.add(answer.status)
    connection.close()
    return statuses


def wait_for_grammars(target: Target) -> None:
    """Have the process that tries grammars up, which the first request that may need it starts."""
    fields: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "max_tokens": 1}
    fields["response_format"] = {"type": "json_object"}
    assert target.ask("POST", "/v1/chat/completions", fields).status == 200


@pytest.mark.slow
def test_ten_thousand_refusals_leave_nothing(tiny_server: TinyServer) -> None:
    target, memory = tiny_server.target, ProcessMemory(tiny_server.pid)
    refuse_many(target, 200)
    wait_for_grammars(target)
    before, num_files = memory.read(), tiny_server.num_files()
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        share = NUM_REFUSED // NUM_CLIENTS
        found = list(pool.map(refuse_many, [target] * NUM_CLIENTS, [share] * NUM_CLIENTS))
    assert set().union(*found) == {400, 404}
    expect_no_state(target)
    expect_ready(target)
    memory.expect_small(before)
    tiny_server.until(lambda: tiny_server.num_files() <= num_files + MAX_NEW_FILES)


@pytest.mark.slow
def test_a_thousand_clients_that_go_away_leave_nothing(tiny_server: TinyServer) -> None:
    attacker = Attacker(target=tiny_server.target)
    chance = random.Random(17)

    def go_away(number: int) -> None:
        path = GENERATING[number % len(GENERATING)]
        length = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
        asked = {"n": 3} if path.endswith("completions") and chance.random() < 0.3 else {}
        fields = {"model": "tiny", **WHOLESOME[path], length: 200, **asked}
        body = json.dumps({**fields, "stream": chance.random() < 0.7}).encode()
        sent = chance.choice([-1, -1, -1, chance.randrange(300)])
        # Whoever has not sent all waits for nothing.
        num_bytes = chance.choice([0, 1, chance.randrange(2000)]) if sent < 0 else 0
        leave(attacker, path, body, num_bytes, sent)

    memory = ProcessMemory(tiny_server.pid)
    for number in range(50):
        go_away(number)
    expect_no_state(attacker.target)
    before, num_files = memory.read(), tiny_server.num_files()
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        list(pool.map(go_away, range(NUM_GONE)))
    expect_no_state(attacker.target)
    expect_ready(attacker.target)
    memory.expect_small(before)
    tiny_server.until(lambda: tiny_server.num_files() <= num_files + MAX_NEW_FILES)
