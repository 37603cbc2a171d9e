"""The source `hf:`, against a small hub made here: huggingface_hub is the real one."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llmplug import SourceError
from llmplug_hub import HubSettings, llmplug_sources
from llmplug_hub.address import Address, parse_address
from llmplug_hub.choose import choose_files
from llmplug_hub.download import fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 4096
FILES = {
    "config.json": b'{"architectures": ["X"]}',
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"# no need",
    "model.safetensors": WEIGHTS,
    "consolidated.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle",
    "onnx/model.onnx": b"no need",
}
NEEDED = {"config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"}


@dataclass
class Hub:
    """What the server serves, and what it was asked for."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    revisions: tuple[str, ...] = ("main", "v1", COMMIT)
    is_gated: bool = False
    cut_after: int | None = None  # bytes of the first download of weights
    tampered: str | None = None  # a file that arrives with other bytes than listed
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    logins: set[str | None] = field(default_factory=set)  # headers of all requests
    endpoint: str = ""


def make_handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append((self.command, path, self.headers.get("Range")))
            hub.logins.add(self.headers.get("Authorization"))
            if not path.startswith(("/api/models/org/name", "/org/name/")):
                self.refuse(401 if "private" in path else 404, "RepoNotFound")
            elif path.startswith("/api/"):
                revision = path.partition("/revision/")[2] or "main"
                if revision not in hub.revisions:
                    self.refuse(404, "RevisionNotFound")
                else:
                    self.send(200, json.dumps(self.listing()).encode(), with_body)
            elif hub.is_gated:
                self.refuse(403, "GatedRepo")
            else:
                self.send_file(path.split("/", 5)[5], with_body)

        def listing(self):
            return {
                "_id": "1", "id": "org/name", "modelId": "org/name", "sha": COMMIT,
                "private": False, "tags": [], "downloads": 0, "likes": 0,
                "siblings": [entry(name, data) for name, data in hub.files.items()],
            }  # fmt: skip

        def send_file(self, name: str, with_body: bool) -> None:
            if name not in hub.files:
                self.refuse(404, "EntryNotFound")
                return
            data = hub.files[name]
            etag = entry(name, data).get("lfs", {}).get("sha256") or git_hash(data)
            if hub.tampered == name:
                data = data[:-1] + b"!"
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
            start = 0
            if self.headers.get("Range"):
                start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.send(206 if start else 200, data[start:], with_body, headers)

        def send(self, status, body: bytes, with_body: bool, headers=None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.end_headers()
            if not with_body:
                return
            if hub.cut_after is not None and len(body) > hub.cut_after:
                body, hub.cut_after = body[: hub.cut_after], None
                self.close_connection = True
            self.wfile.write(body)

        def refuse(self, status: int, code: str) -> None:
            self.send(status, b"{}", self.command == "GET", {"X-Error-Code": code})

        def log_message(self, *args) -> None:
            """Stay quiet."""

    return Handler


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(name: str, data: bytes) -> dict:
    found = {"rfilename": name, "size": len(data), "blobId": git_hash(data)}
    if len(data) > 1000:
        sha256 = hashlib.sha256(data).hexdigest()
        found["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
    return found


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), make_handler(hub)) as server:
        server.daemon_threads = True
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


@pytest.fixture
def source():
    (spec,) = llmplug_sources(HubSettings())
    return spec


def ignore(stage: str, done: int, total: int) -> None:
    pass


def get(hub, cache, rest="org/name", progress=ignore):
    return fetch(parse_address(rest), cache, progress, endpoint=hub.endpoint)


def test_a_model_is_fetched_and_found_without_the_hub(hub, source, tmp_path):
    calls = []
    assert source.find("org/name", tmp_path) is None
    folder = get(hub, tmp_path, progress=lambda *report: calls.append(report))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: FILES[name] for name in NEEDED
    }
    assert folder.is_relative_to(tmp_path / "hub")
    asked = len(hub.requests)
    assert source.find("org/name", tmp_path) == folder
    assert source.find("org/name@main", tmp_path) == folder
    assert source.find("org/name@v1", tmp_path) is None
    assert len(hub.requests) == asked
    total = sum(len(FILES[name]) for name in NEEDED)
    assert {report[2] for report in calls} == {total}
    done = [report[1] for report in calls]
    assert done == sorted(done)
    assert done[-1] == total


def test_one_file_at_a_revision(hub, source, tmp_path):
    hub.files["q/model-Q4_1.gguf"] = WEIGHTS
    rest = "org/name/q/model-Q4_1.gguf@v1"
    path = get(hub, tmp_path, rest)
    assert path.parts[-2:] == ("q", "model-Q4_1.gguf")
    assert path.read_bytes() == WEIGHTS
    assert source.find(rest, tmp_path) == path
    assert source.find("org/name@v1", tmp_path) is None
    assert not any("config.json" in path for _, path, _ in hub.requests)


def test_a_download_that_is_cut_is_resumed_where_it_ended(hub, tmp_path, monkeypatch):
    # What does not fill a chunk of huggingface_hub, 10 MB, is fetched again.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.cut_after = 300_000
    folder = get(hub, tmp_path)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [range_ for _, path, range_ in hub.requests if "model.safetensors" in path]
    assert "bytes=300000-" in ranges


def test_settings_say_where_the_hub_is_and_who_asks(hub, tmp_path):
    settings = HubSettings(endpoint=hub.endpoint, token="hush")
    (source,) = llmplug_sources(settings)
    folder = source.fetch("org/name", tmp_path, ignore)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.logins == {"Bearer hush"}


def test_an_interrupted_fetch_is_not_found(hub, source, tmp_path):
    def interrupt(stage, done, total):
        if done > 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(hub, tmp_path, progress=interrupt)
    assert source.find("org/name", tmp_path) is None
    folder = get(hub, tmp_path)
    assert source.find("org/name", tmp_path) == folder


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_other_bytes_than_listed_are_refused_and_not_kept(hub, source, tmp_path, name):
    hub.tampered = name
    with pytest.raises(SourceError, match=f"{name} has another checksum"):
        get(hub, tmp_path)
    assert source.find("org/name", tmp_path) is None
    hub.tampered = None
    assert (get(hub, tmp_path) / name).read_bytes() == FILES[name]


@pytest.mark.parametrize("change", ["shorter", "gone", "damaged record", "other record"])
def test_find_accepts_only_what_is_complete(hub, source, tmp_path, change):
    folder = get(hub, tmp_path)
    (record,) = (tmp_path / "hub" / "verified").iterdir()
    if change == "shorter":
        (folder / "model.safetensors").resolve().write_bytes(WEIGHTS[:-1])
    elif change == "gone":
        (folder / "config.json").unlink()
    else:
        record.write_text("{" if change == "damaged record" else '{"folder": 3, "files": []}')
    assert source.find("org/name", tmp_path) is None


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("org/absent", "there is no such model, or it is private"),
        ("org/private", "there is no such model, or it is private"),
        ("org/name@v2", "there is no revision v2"),
        ("org/name/modle.safetensors", "no such file; there is model.safetensors"),
    ],
)
def test_what_is_not_there_is_named(hub, tmp_path, rest, message):
    with pytest.raises(SourceError, match=message):
        get(hub, tmp_path, rest)


def test_gated_models(hub, tmp_path):
    hub.is_gated = True
    with pytest.raises(SourceError, match="is gated; accept its terms"):
        get(hub, tmp_path)


def test_a_hub_that_cannot_be_reached(hub, source, tmp_path):
    folder = get(hub, tmp_path)
    hub.endpoint = "http://127.0.0.1:9"  # the discard port: nobody listens
    with pytest.raises(SourceError, match="cannot be reached"):
        get(hub, tmp_path, "org/name@v1")
    assert source.find("org/name", tmp_path) == folder


def test_the_users_settings_of_huggingface_hub_hold(hub, tmp_path):
    """HF_ENDPOINT and HF_HUB_OFFLINE are read when huggingface_hub is imported: a new process."""
    script = (
        "import sys, pathlib, llmplug, llmplug_hub\n"
        "(source,) = llmplug_hub.llmplug_sources(llmplug_hub.HubSettings())\n"
        "try:\n"
        "    cache = pathlib.Path(sys.argv[1])\n"
        "    print(source.fetch('org/name', cache, lambda *report: None).name)\n"
        "except llmplug.SourceError as error:\n"
        "    print(error)\n"
    )

    def run(**settings: str) -> str:
        command = [sys.executable, "-c", script, str(tmp_path)]
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_ENDPOINT": hub.endpoint}
        done = subprocess.run(
            command, env={**env, **settings}, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""  # no bars of its own
        return done.stdout.strip()

    assert "switched off (HF_HUB_OFFLINE)" in run(HF_HUB_OFFLINE="1")
    assert hub.requests == []
    assert run() == COMMIT


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors", "model-00001-of-00002.safetensors", "x.safetensors"],
         ["model.safetensors"]),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
          "model.safetensors.index.json", "consolidated.safetensors"],
         ["model.safetensors.index.json", "model-00001-of-00002.safetensors",
          "model-00002-of-00002.safetensors"]),
        (["weights.safetensors", "sub/model.safetensors", "tokenizer.model", "a.json", "b/c.json"],
         ["a.json", "tokenizer.model", "weights.safetensors"]),
        (["model.safetensors", "additional_chat_templates/rag.jinja", "original/params.json"],
         ["additional_chat_templates/rag.jinja", "model.safetensors"]),
    ],
)  # fmt: skip
def test_only_what_is_needed_is_chosen(names, expected):
    assert choose_files(parse_address("org/name"), names) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a-Q4_1.gguf", "config.json"], "holds GGUF files; name one: /a-Q4_1.gguf"),
        (["pytorch_model.bin"], "holds pickled weights only"),
        (["README.md"], r"holds no weights; there is README\.md"),
        ([], "holds no weights; there is nothing"),
    ],
)
def test_repositories_without_weights_say_what_they_hold(names, message):
    with pytest.raises(SourceError, match=message):
        choose_files(parse_address("org/name"), names)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("org/name", Address("org/name", None, "main")),
        ("org/name@refs/pr/1", Address("org/name", None, "refs/pr/1")),
        ("org/na.me_x/a/b.gguf@v1.0", Address("org/na.me_x", "a/b.gguf", "v1.0")),
    ],
)
def test_addresses(rest, expected):
    assert parse_address(rest) == expected


@pytest.mark.parametrize(
    "rest",
    ["", "name", "/name", "org/", "../name", "org/..", "org/name/", "org/name@", "org/name@../x",
     "org/name@-x", "org/name/../x", "org/name//x", "org/name/a\\b", "a--b/c", "org/na me"],
)  # fmt: skip
def test_addresses_that_are_refused(source, tmp_path, rest):
    with pytest.raises(SourceError, match="hf:"):
        source.find(rest, tmp_path)


def test_finding_needs_no_huggingface_hub(tmp_path):
    script = (
        "import sys, pathlib, llmplug_hub\n"
        "(source,) = llmplug_hub.llmplug_sources(llmplug_hub.HubSettings())\n"
        "source.find('org/name', pathlib.Path(sys.argv[1]))\n"
        "print('huggingface_hub' in sys.modules)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
