"""Doors that must be shut: addresses, files, the administrator's, and those that need a key."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from llmplug.attack.attacker import CHAT, COMPLETIONS, MESSAGES, QUESTION, RESPONSES
from llmplug.attack.attacks import attack
from llmplug.attack.wire import talk
from llmplug.conformance.checks import NotOffered, expect

if TYPE_CHECKING:
    from llmplug.attack.attacker import Attacker
    from llmplug.conformance.target import Answer

# What others take from clients of how they work inside.
INTERNAL: dict[str, Any] = {
    "kv_transfer_params": {"remote_host": "127.0.0.1", "remote_port": 1, "tp_size": 10**9},
    "bootstrap_host": "127.0.0.1",
    "bootstrap_port": 1,
    "bootstrap_room": 2**62,
    "custom_logit_processor": "gASVAAAAAAAAAAA=",
    "custom_params": {"x": 1},
    "lora_path": "/etc/passwd",
    "input_embeds": [[1.0]],
    "mm_processor_kwargs": {"num_crops": 10**9},
    "media_io_kwargs": {"video": {"num_frames": -1}},
    "data_parallel_rank": 10**9,
    "id_slot": -1,
    "n_discard": -5,
    "chunk_idx": 10**9,
    "rid": ["x"] * 1000,
    "vllm_xargs": {"x": "y"},
    "return_hidden_states": True,
    "guided_decoding_backend": "x",
    "nvext": {"x": 1},
}
ADMIN = (
    "/stacks", "/reload", "/admin", "/debug", "/debug/pprof", "/server_info", "/get_server_info",
    "/flush_cache", "/update_weights_from_disk", "/update_weights_from_tensor",
    "/load_lora_adapter", "/v1/load_lora_adapter", "/start_profile", "/sleep",
    "/abort_request", "/collective_rpc", "/reset_prefix_cache", "/api/pull", "/api/delete",
    "/slots", "/props", "/.env", "/proc/self/environ", "/etc/passwd",
)  # fmt: skip
ODD_PATHS = (
    "//v1/models", "/v1//models", "/v1/models/", "/V1/MODELS", "/%76%31/models", "/v1/./models",
    "/live/../v1/models", "/live/..%2fv1/models", "/live%00/v1/models", "/live;/v1/models",
    "http://x/v1/models", "/v1/models?x=/live", "/v1/models#/live", "/live\\..\\v1\\models",
)  # fmt: skip
TRAVERSALS = (
    "..%2f..%2f..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "....//etc/passwd",
    "..%252f..%252fetc%252fpasswd", "file-%00", "C:%5cWindows%5cwin.ini",
)  # fmt: skip


@attack("doors")
def addresses_in_requests(attacker: Attacker) -> None:
    """No address in a request is called: not of an image, a sound, a file, nor in a text."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/picture.png"
        for address in (url, "file:///etc/passwd", "http://169.254.169.254/latest/meta-data"):
            _send_addresses(attacker, address)
        try:
            listener.accept()[0].close()
        except TimeoutError:
            return
        expect(False, "the server called an address that a request held")


def _send_addresses(attacker: Attacker, url: str) -> None:
    parts: tuple[dict[str, Any], ...] = (
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}},
        {"type": "file", "file": {"file_data": url}},
    )
    for part in parts:
        attacker.send(CHAT, messages=[{"role": "user", "content": [part]}])
    for kind, source in (("image", {"type": "url", "url": url}), ("document", {"url": url})):
        content = [{"type": kind, "source": source}]
        attacker.send(MESSAGES, messages=[{"role": "user", "content": content}])
    for part in (
        {"type": "input_image", "image_url": url},
        {"type": "input_file", "file_url": url},
    ):
        attacker.send(RESPONSES, input=[{"role": "user", "content": [part]}])
    attacker.send(CHAT, messages=[{"role": "user", "content": f"![a]({url})"}])


@attack("doors")
def how_it_works_inside(attacker: Attacker) -> None:
    """What is the server's own is not the client's to set: ignored, or refused."""
    plain = attacker.send(CHAT, temperature=0).json()["choices"]
    for name, value in INTERNAL.items():
        answer = attacker.send(CHAT, temperature=0, **{name: value})
        expect(
            answer.status == 400 or answer.json()["choices"] == plain, f"{name} changes the answer"
        )
        attacker.send(COMPLETIONS, **{name: value})
    attacker.expect_refused(COMPLETIONS, "prompt_embeds", prompt_embeds="gASVAAAAAAAAAAA=")


@attack("doors")
def places_of_administrators(attacker: Attacker) -> None:
    """What an administrator may do is not where clients are, and names of files lead nowhere."""
    for path in ADMIN:
        for method in ("GET", "POST"):
            answer = attacker.ask(method, path, {} if method == "POST" else None)
            expect(answer.status in (401, 404, 405), f"{method} {path}: status {answer.status}")
    for name in TRAVERSALS:
        for path in (f"/v1/files/{name}", f"/v1/files/{name}/content", f"/v1/models/{name}"):
            answer = attacker.ask("GET", path)
            expect(400 <= answer.status < 500, f"{path}: status {answer.status}")


@attack("doors")
def odd_paths_without_a_key(attacker: Attacker) -> None:
    """Where a key is asked for, no spelling of a path and no header leads past it."""
    if attacker.target.api_key is None:
        raise NotOffered
    for path in ODD_PATHS:
        lines = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        said = talk(attacker, [lines.encode()], ends=False)
        expect(said[9:10] == b"4", f"{path}: {said[:40]!r}")
        expect(b'"object":"list"' not in said, f"{path} shows the models")
    for header in (
        "X-Original-URL: /live",
        "X-Forwarded-For: 127.0.0.1",
        "X-HTTP-Method-Override: GET",
        "Host: 127.0.0.1",
        "Authorization: Bearer",
        "Authorization: Basic eDp5",
        "x-api-key: ",
        "Cookie: api_key=x",
    ):
        lines = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n\r\n"
        said = talk(attacker, [lines.encode()], ends=False)
        expect(said[9:10] == b"4", f"{header}: {said[:40]!r}")


@attack("doors")
def each_route_without_a_key(attacker: Attacker) -> None:
    """Where a key is asked for, each route of `/openapi.json` asks for it, probes aside."""
    if attacker.target.api_key is None:
        raise NotOffered
    listed = attacker.ask("GET", "/openapi.json")
    if listed.status != 200:
        raise NotOffered
    for path, methods in listed.json()["paths"].items():
        for method in methods:
            answer = attacker.ask(method.upper(), path.replace("{", "").replace("}", ""), None,
                                  has_key=False)  # fmt: skip
            is_probe = path in ("/live", "/ready", "/health")
            expect(answer.status == 401 or is_probe, f"{method} {path}: status {answer.status}")


@attack("doors")
def secrets(attacker: Attacker) -> None:
    """What tells of the server tells no key, and no page of another origin may read it."""
    for path in ("/v1/models", "/metrics", "/health", "/openapi.json", "/version", "/v1/samplers"):
        answer = attacker.ask("GET", path)
        _expect_no_key(attacker, path, answer)
        shared = answer.headers.get("access-control-allow-origin")
        expect(shared != "*", f"{path} may be read by pages of every origin")
    model = attacker.target.model
    _expect_no_key(
        attacker, CHAT, attacker.ask("POST", CHAT, {"model": model, "messages": QUESTION, "n": 0})
    )


def _expect_no_key(attacker: Attacker, path: str, answer: Answer) -> None:
    key = attacker.target.api_key
    shown = answer.body + repr(dict(answer.headers)).encode()
    expect(key is None or key.encode() not in shown, f"{path} tells the key")


ATTACKS = (
    addresses_in_requests,
    how_it_works_inside,
    places_of_administrators,
    odd_paths_without_a_key,
    each_route_without_a_key,
    secrets,
)
