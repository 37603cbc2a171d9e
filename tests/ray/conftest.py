"""A Ray cluster of two nodes on this machine, and `llmplug deploy` to it: `make test-ray`."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

try:
    import ray.serve  # by its long name: this folder goes by the short one
except ModuleNotFoundError:
    collect_ignore_glob = ["test_*.py"]

DEADLINE_S = 300.0
STORE_BYTES = 80 * 2**20  # the least that Ray takes, nearly
NODE_TRIES = 4
NAME = "llmplug"
# Loads are told every second, not every ten, so that a test sees what follows from them.
RAY_ENVIRONMENT = {
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    "RAY_AUTH_MODE": "disabled",  # else a token that somebody made here once is asked for
    "RAY_USAGE_STATS_ENABLED": "0",
    "LLMPLUG_TEST": uuid.uuid4().hex,  # its processes are known by it
}
CONFIG = """
server:
  port: {port}
  tls: {tls}
  drain_s: 120.0
  max_waiting_requests: 4
  responses: {{path: memory}}
  batches: {{path: none}}
  flight_recorder: {{path: none}}
models:
  - name: tiny
    source: {source}
    device: cpu
    threads: 1
    cache: {{memory: 64MiB}}
    scheduler: {{max_sequences: 4}}
deploy:
  num_cpus: 1.0
"""


def wait_until(is_so: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition; say what did not come."""
    deadline = time.monotonic() + deadline_s
    while not is_so():
        assert time.monotonic() < deadline, f"{what} after {deadline_s:.0f} s"
        time.sleep(0.2)


def list_servers(command: str = "") -> dict[int, str]:
    """List what this cluster has started of `llmplug COMMAND`, and still runs: pid -> words."""
    mark = RAY_ENVIRONMENT["LLMPLUG_TEST"].encode()
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            words = (process / "cmdline").read_bytes()
            if b"\0llmplug\0" + command.encode() not in words:
                continue
            if mark in (process / "environ").read_bytes():
                found[int(process.name)] = words.replace(b"\0", b" ").decode()
    return found


@dataclass
class Deployed:
    """A cluster, and what `llmplug deploy` makes of it.

    Attributes:
        cluster: `ray.cluster_utils.Cluster`.
        url: where its proxies answer.
        certificate: theirs; None: they speak no TLS.
    """

    cluster: Any
    url: str
    config: Path
    certificate: Path | None = None
    keys: Mapping[str, Any] | None = None  # of what runs

    def add_node(self, **fields: Any) -> Any:
        """Add a node, and try again where it does not come in the 30 s that Ray grants it."""
        for _ in range(NODE_TRIES):
            try:
                return self.cluster.add_node(object_store_memory=STORE_BYTES, **fields)
            except Exception as error:  # Ray's own, of no class
                if "timed out during startup" not in str(error):
                    raise
        raise AssertionError(f"no node came up at {NODE_TRIES} tries")

    def deploy(self, **keys: Any) -> None:
        """Have the config run with some keys overridden."""
        if keys != self.keys:
            done = self.try_deploy(keys)
            assert done.returncode == 0, done.stderr
            assert self.url in done.stdout
            self.keys = keys

    def try_deploy(self, keys: Mapping[str, Any], *words: str) -> subprocess.CompletedProcess[str]:
        """Deploy, or what further words say, whatever comes of it."""
        command = [sys.executable, "-m", "llmplug", "deploy", "--config", str(self.config)]
        command += ["--address", self.cluster.address, *words]
        for key, value in keys.items():
            command += ["--set", f"{key}={value}"]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )

    def count_servers(self, state: str = "RUNNING") -> int:
        """How many servers Ray says are in a state."""
        from ray import serve

        servers = serve.status().applications[NAME].deployments["servers"]
        return servers.replica_states.get(state, 0)


@contextmanager
def run_cluster(
    folder: Path, *, head_cpus: int, num_workers: int, has_tls: bool = False
) -> Iterator[Deployed]:
    """Run a cluster with nothing on it yet, of a head and workers of two processors each."""
    from ray.cluster_utils import Cluster

    from benchmarks.server import find_free_port
    from tests.certificates import make_certificate
    from tests.tiny import make_checkpoint

    source = make_checkpoint("llama", folder / "tiny", max_position_embeddings=16384)
    port = find_free_port()
    config = folder / "config.yaml"
    certificate, tls = None, "null"
    if has_tls:
        certificate, key = make_certificate(folder, "server")
        tls = f"{{certificate: {certificate}, private_key: {key}}}"
    config.write_text(CONFIG.format(port=port, source=source, tls=tls))
    scheme = "https" if has_tls else "http"
    before = dict(os.environ)
    os.environ.update(RAY_ENVIRONMENT)
    cluster = Cluster()
    deployed = Deployed(cluster, f"{scheme}://127.0.0.1:{port}", config, certificate)
    try:
        deployed.add_node(num_cpus=head_cpus, include_dashboard=False)
        for _ in range(num_workers):
            deployed.add_node(num_cpus=2)
        ray.init(address=cluster.address, log_to_driver=False)
        ray.serve.context._set_global_client(None)  # else it is still that of another cluster
        yield deployed
    finally:
        if ray.is_initialized():
            ray.shutdown()
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)
    wait_until(lambda: list_servers() == {}, "its servers end", 60)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Two nodes that both may run servers."""
    folder = tmp_path_factory.mktemp("ray")
    with run_cluster(folder, head_cpus=2, num_workers=1) as deployed:
        yield deployed


@pytest.fixture(scope="module")
def client(deployed: Deployed) -> Iterator[Any]:
    """OpenAI's client, which does not try again."""
    import openai

    http = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=deployed.certificate))
    url = f"{deployed.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, http_client=http) as client:
        yield client
