"""Many at once, many in a row, and many that go away."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmplug.attack.attacker import CHAT, COMPLETIONS, GENERATING, WHOLESOME
from llmplug.attack.attacks import attack
from llmplug.attack.wire import connect, key_header
from llmplug.conformance.checks import expect, expect_ok, expect_refused

if TYPE_CHECKING:
    from llmplug.attack.attacker import Attacker

NUM_AT_ONCE = 32
NUM_REFUSED = 200
READ_BYTES = (0, 1, 400)  # of an answer, before its client goes away


@attack("crowds")
def one_id_for_all(attacker: Attacker) -> None:
    """Requests that call themselves by one name, all at once, are answered each for itself."""
    target = replace(attacker.target, headers={"X-Request-Id": "the-same"})
    crowd = replace(attacker, target=target)
    fields: dict[str, Any] = {"temperature": 0, "request_id": "the-same"}
    prompts = [f"Once upon a time {i % 4}" for i in range(NUM_AT_ONCE)]
    alone = [_say(attacker, prompt, {"temperature": 0}) for prompt in prompts[:4]]
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        said = list(pool.map(lambda prompt: _say(crowd, prompt, fields), prompts))
    wrong = [i for i, text in enumerate(said) if text != alone[i % 4]]
    expect(not wrong, f"{len(wrong)} of {NUM_AT_ONCE} got another answer than alone")


@attack("crowds")
def adapters_and_the_base_in_one_round(attacker: Attacker) -> None:
    """More adapters than there are, asked for beside the base, cost nobody an answer.

    A name that the server does not know is refused; a field that it does not know changes nothing.
    """
    model = attacker.target.model
    prompts = [f"Once upon a time {i}" for i in range(4)]
    alone = [_say(attacker, prompt, {"temperature": 0}) for prompt in prompts]
    patient = attacker.patient(20)

    def ask(number: int) -> None:
        prompt, told = prompts[number % 4], alone[number % 4]
        kind, name = number % 3, f"adapter-{number}"
        if kind == 0:
            said = _say(attacker, prompt, {"temperature": 0})
            expect(said == told, f"the base says {said!r}, and alone {told!r}")
        elif kind == 1:
            unknown = patient.send(COMPLETIONS, prompt=prompt, model=f"{model}:{name}")
            expect_refused(unknown, 400, 404, param="model")
        else:
            fields: dict[str, Any] = {"lora_path": name, "lora": [{"id": number, "scale": 1e30}]}
            answer = patient.send(COMPLETIONS, prompt=prompt, temperature=0, **fields)
            is_plain = answer.status == 400 or answer.json()["choices"][0]["text"] == told
            expect(is_plain, f"an adapter that is none changes the answer to {prompt!r}")

    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        list(pool.map(ask, range(NUM_AT_ONCE)))


@attack("crowds")
def many_refusals(attacker: Attacker) -> None:
    """Hundreds of refused requests in a row leave nothing behind."""
    refused: tuple[tuple[str, dict[str, Any]], ...] = (
        (COMPLETIONS, {"max_tokens": -1}),
        (COMPLETIONS, {"prompt": [10**9]}),
        (CHAT, {"messages": []}),
        (CHAT, {"top_p": 0}),
    )
    for i in range(NUM_REFUSED):
        path, fields = refused[i % len(refused)]
        attacker.patient(5).expect_refused(path, **fields)


@attack("crowds")
def clients_that_go_away(attacker: Attacker) -> None:
    """Whenever a client goes away, streamed to or not, nothing of its request is left."""
    for path in GENERATING:
        for is_streamed in (False, True):
            fields = {"model": attacker.target.model, **WHOLESOME[path], "stream": is_streamed}
            for name in ("max_tokens", "max_output_tokens"):
                fields |= {name: 200} if name in fields else {}
            for num_bytes in READ_BYTES:
                leave(attacker, path, json.dumps(fields).encode(), num_bytes)


def leave(attacker: Attacker, path: str, body: bytes, num_bytes: int, sent: int = -1) -> None:
    """Send a request, or its first bytes, read some of the answer, and go without a word."""
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%b" % (
        path.encode(), key_header(attacker),
    )  # fmt: skip
    request = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with connect(attacker) as sock, suppress(OSError):
        sock.sendall(request if sent < 0 else request[:sent])
        if num_bytes:
            sock.recv(num_bytes)
        # Not a closed connection, but one that is gone.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def _say(attacker: Attacker, prompt: str, fields: dict[str, Any]) -> str:
    reply = expect_ok(attacker.patient(20).send(COMPLETIONS, prompt=prompt, **fields))
    text: str = reply["choices"][0]["text"]
    return text


ATTACKS = (
    one_id_for_all,
    adapters_and_the_base_in_one_round,
    many_refusals,
    clients_that_go_away,
)
