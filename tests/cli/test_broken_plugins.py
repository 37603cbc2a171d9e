"""A server beside plugins that are broken in every way: it starts, and says what is wrong.

Each is a real distribution on the path of a real process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tiny import make_checkpoint

from benchmarks.server import ServerProcess, find_free_port
from tests.fake_plugins import Site

DEADLINE_S = 120.0
GOOD = """
@hookimpl
def llmplug_samplers(): return [sampler('{}', is_active=lambda params: False)]
"""

# Told by the config which token it prefers (32 is "A"), and a secret that it looks at.
TOLD = """
from pydantic import SecretStr

class Settings(BaseModel):
    token_id: int = 0
    licence: SecretStr | None = None

class Prefer:
    def __init__(self, token_id): self.token_id = token_id
    def apply(self, logits_RV, rows): logits_RV[:, self.token_id] += 1000.0

class Wanted(BaseModel):
    prefer: bool = False

@hookimpl
def llmplug_settings(): return Settings

@hookimpl
def llmplug_samplers(settings):
    if settings.licence is not None and settings.licence.get_secret_value() != "hush":
        raise RuntimeError("another licence")
    return [sampler("told", params=Wanted, is_active=lambda params: params.prefer,
                    make=lambda width, device, ops: Prefer(settings.token_id))]
"""

# name -> (its code, what its distribution requires, its state, what the reason says)
BROKEN = {
    "import_error": ("1 / 0", None, "broken", "ZeroDivisionError"),
    "wrong_signature": (
        "@hookimpl\ndef llmplug_samplers(rows): return []\n",
        None,
        "incompatible",
        "rows",
    ),
    "unknown_hook": (
        "@hookimpl\ndef llmplug_sampler(): return []\n",
        None,
        "incompatible",
        "did you mean 'llmplug_samplers'?",
    ),
    "name_clash": (
        "@hookimpl\ndef llmplug_samplers(): return [sampler('xtc')]\n",
        None,
        "conflict",
        "sampler 'xtc' is that of llmplug:xtc",
    ),
    "missing_dependency": ("import no_such_package", None, "broken", "no_such_package"),
    "wrong_version": (GOOD.format("later"), "llmplug>=99", "incompatible", "llmplug>=99"),
    "raises_on_call": (
        "@hookimpl\ndef llmplug_samplers(): raise RuntimeError('no licence')\n",
        None,
        "broken",
        "no licence",
    ),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("site-packages"))
    for name, (code, requires, _, _) in BROKEN.items():
        site.install(name, code, requires=requires)
    site.install("well", GOOD.format("well"))
    site.install("told", TOLD)
    return site


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    model = {
        "source": str(make_checkpoint("llama", folder / "llama")),
        "name": "tiny",
        "device": "cpu",
        "cache": {"memory": "8MiB"},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps({"server": {"port": 0}, "models": [model]}))
    return path


def command(site: Site, *arguments: str | Path) -> tuple[list[str], dict[str, str]]:
    path = os.pathsep.join([str(site.folder), os.environ.get("PYTHONPATH", "")])
    argv = [sys.executable, "-m", "llmplug", *map(str, arguments)]
    return argv, {**os.environ, "PYTHONPATH": path}


def run(site: Site, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv, environment = command(site, *arguments)
    return subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def test_each_is_listed_with_its_state_file_and_exception(site: Site) -> None:
    done = run(site, "plugins", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["plugins"]}
    for name, (_, requires, state, reason) in BROKEN.items():
        row = rows[name]
        assert row["state"] == state, row
        assert reason in row["reason"]
        if state == "broken":
            assert str(site.folder) in row["file"]
            assert row["exception"] in row["traceback"]
        elif state == "incompatible" and requires is None:
            assert str(site.folder) in row["file"]
        assert str(site.folder) in row["code"]
    assert rows["well"]["state"] == "ok"
    assert run(site, "plugins", "--check").returncode == 1


@pytest.mark.parametrize("name", BROKEN)
def test_a_config_that_requires_one_stops_the_start(name: str, site: Site, config: Path) -> None:
    done = run(site, "check", "--config", config, "--set", f"plugins.require=[{name}]")
    assert done.returncode == 2
    assert name in done.stderr
    assert BROKEN[name][3] in done.stderr
    assert f"llmplug plugins --explain {name}" in done.stderr  # what to do
    assert "out of plugins.require" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def served(
    site: Site, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Path]]:
    port, log = find_free_port(), tmp_path / "log"
    told = "plugins.settings.told={token_id: 32, licence: '${LICENCE}'}"
    sets = ["--set", f"server.port={port}", "--set", told]
    argv, environment = command(site, "serve", "--config", config, *sets)
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    monkeypatch.setenv("LICENCE", "hush")
    with ServerProcess(argv, f"http://127.0.0.1:{port}", log, DEADLINE_S) as server:
        yield server.url, log


def test_the_server_starts_and_serves_beside_them(served: tuple[str, Path]) -> None:
    place, log = served
    body = {"model": "tiny", "prompt": "hi", "max_tokens": 3, "temperature": 0}
    reply = httpx.post(f"{place}/v1/completions", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["completion_tokens"] == 3
    reply = httpx.post(f"{place}/v1/completions", json=body | {"prefer": True}, timeout=60)
    assert reply.json()["choices"][0]["text"] == "AAA"  # the engine's process knows the settings
    said = log.read_text()
    assert "hush" not in said
    for name, (_, _, _, reason) in BROKEN.items():
        assert any(name in line and reason in line for line in said.splitlines()), name


def test_fifty_more_plugins_cost_a_start_less_than_0_3_s(tmp_path: Path) -> None:
    empty, full = Site(tmp_path / "empty"), Site(tmp_path / "full")
    for each in (empty, full):
        each.folder.mkdir()
    for number in range(50):
        full.install(f"dummy{number}", GOOD.format(f"dummy{number}"))
    seconds: dict[Site, list[float]] = {empty: [], full: []}
    for _ in range(5):
        for each, times in seconds.items():
            before = sum(os.times()[2:4])  # of children: a busy machine does not count
            done = run(each, "plugins", "--json")
            times.append(sum(os.times()[2:4]) - before)
            assert done.returncode == 0, done.stderr
            names = {row["name"] for row in json.loads(done.stdout)["plugins"]}
            assert ("dummy49" in names) == (each is full)
    assert min(seconds[full]) - min(seconds[empty]) < 0.3
