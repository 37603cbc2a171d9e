"""A server that answers at once, to test the harness with: `stand_in.py PORT [OPTIONS]`.

It streams `max_tokens` times "a", keeps a prefix cache of pages as a real one does, and has two
children: one that holds 50 MiB, and one that looks like our engine process. OPTIONS is JSON:

    ready       the only path that says that it is ready; `/v1/models` if left out
    version     what /version says
    refuse      every so many requests, one is answered with 500
    known       fields that a request may have; others are refused
    api         the only one that is served: tokens, text or chat
    cache       false: no prefix cache, and no word about one
    done        false: streams end without [DONE]
    burn_s      processor time that each request takes, in the server itself
    metrics     text of /metrics; "{requests}" in it is their number so far
"""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import time

PAGE = 16
OPTIONS = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
BALLAST = [sys.executable, "-c", "ballast = bytearray(50 << 20); input()"]
ENGINE = [sys.executable, "-c", "input()", "-m", "llmplug", "engine"]
known_prefixes: set[tuple] = set()
requests: list[str] = []  # their paths


def count_cached(prompt: list) -> int:
    """Find the longest known prefix of whole pages, then know those of this prompt too."""
    ends = range(PAGE, len(prompt) + 1, PAGE)
    prefixes = [tuple(prompt[:end]) for end in ends]
    known = [len(prefix) for prefix in prefixes if prefix in known_prefixes]
    known_prefixes.update(prefixes)
    return max(known, default=0)


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        texts = {"/v1/models": json.dumps({"data": [{"id": "stand-in"}]})}
        if "ready" in OPTIONS:
            texts[OPTIONS["ready"]] = "{}"
        if "version" in OPTIONS:
            texts["/version"] = json.dumps({"version": OPTIONS["version"]})
        if "metrics" in OPTIONS:
            texts["/metrics"] = OPTIONS["metrics"].replace("{requests}", str(len(requests)))
        text = texts.get(self.path)
        self.send(404 if text is None else 200, (text or "").encode())

    def do_POST(self) -> None:
        requests.append(self.path)
        number = len(requests)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_chat = "messages" in body
        prompt = body["messages"][0]["content"] if is_chat else body["prompt"]
        api = "chat" if is_chat else "text" if isinstance(prompt, str) else "tokens"
        unknown = set(body) - set(OPTIONS.get("known", body))
        if unknown or api != OPTIONS.get("api", api):
            self.send(422, f"not served: {api} {sorted(unknown)}".encode())
            return
        if number % OPTIONS.get("refuse", number + 1) == 0:
            self.send(500, b"out of memory")
            return
        burn(OPTIONS.get("burn_s", 0.0))
        tokens = prompt.split() if isinstance(prompt, str) else prompt
        usage = {"prompt_tokens": len(tokens), "completion_tokens": body["max_tokens"]}
        if OPTIONS.get("cache", True):
            usage["prompt_tokens_details"] = {"cached_tokens": count_cached(tokens)}
        self.send_response(200)
        self.end_headers()
        text = {"delta": {"content": "a"}} if is_chat else {"text": "a"}
        for _ in range(body["max_tokens"]):
            self.write_event({"choices": [text]})
        self.write_event({"choices": [], "usage": usage})
        if OPTIONS.get("done", True):
            self.wfile.write(b"data: [DONE]\n\n")

    def write_event(self, event: dict) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")


if __name__ == "__main__":
    children = [subprocess.Popen(each, stdin=subprocess.PIPE) for each in (BALLAST, ENGINE)]
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
