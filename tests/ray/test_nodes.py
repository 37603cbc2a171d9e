"""A model with ranks on two nodes of a Ray cluster, one of which is lost; asked by TLS."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmplug import LLM, SamplingParams

from .clients import LOST, ask, join, load
from .conftest import Deployed, list_servers, run_cluster, wait_until

pytestmark = pytest.mark.slow

TWO_NODES = {"models.0.parallel.tensor": 2, "models.0.parallel.nodes": 2}
QUESTION = ask("And?", max_tokens=200)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Two nodes for ranks, and a head that runs none, as it cannot be lost."""
    folder = tmp_path_factory.mktemp("nodes")
    with run_cluster(folder, head_cpus=0, num_workers=2, has_tls=True) as deployed:
        yield deployed


def read_parent(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1])


def find_raylet(pid: int) -> int:
    """Find the node that a process runs on, by the one of its ancestors that Ray began with."""
    while Path(f"/proc/{pid}/exe").readlink().name != "raylet":
        pid = read_parent(pid)
    return pid


def raylet_of(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


def guards_of(command: str) -> list[int]:
    """List the processes that a replica, or a host of ranks, has started itself."""
    return [pid for pid, words in list_servers(command).items() if "guard.py" in words]


def find_nodes(deployed: Deployed) -> list[Any]:
    """Find the node of the server, and the one that has ranks alone."""
    raylets = {raylet_of(node): node for node in deployed.cluster.worker_nodes}
    found = []
    for command in ("serve", "join"):
        (node,) = {find_raylet(pid) for pid in list_servers(command)}
        found.append(raylets[node])
    return found


def test_ranks_of_two_nodes_answer_as_one(deployed: Deployed, client: Any) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=QUESTION["max_tokens"], ignore_eos=True)
    with LLM(deployed.config) as one_rank:
        (expected,) = one_rank.chat(QUESTION["messages"], greedy)
    deployed.deploy(**TWO_NODES)
    streamed = join(client.chat.completions.create(**QUESTION, stream=True))
    assert streamed == (expected.text, "length")
    of_server, of_ranks = find_nodes(deployed)
    assert of_server is not of_ranks
    (joined,) = set(list_servers("join")) - set(guards_of("join"))
    environment = Path(f"/proc/{joined}/environ").read_text().split("\0")
    (secret,) = {each.partition("=")[2] for each in environment if "RANKS_SECRET=" in each}
    assert len(secret) > 32
    assert not [words for words in list_servers().values() if secret in words]
    # One rank is beside the engine that the server started, the other where `join` runs.
    assert [find_raylet(pid) for pid in list_servers("rank")] == [raylet_of(of_ranks)]


def test_a_killed_replica_leaves_no_process(deployed: Deployed, client: Any) -> None:
    deployed.deploy(**TWO_NODES)
    (guard,) = guards_of("serve")
    before = set(list_servers())
    os.kill(read_parent(guard), signal.SIGKILL)
    wait_until(lambda: before.isdisjoint(list_servers()), "all that it had started ends", 60)
    wait_until(lambda: guards_of("serve") != [], "another server starts")
    wait_until(lambda: deployed.count_servers() == 1, "it is ready, with another group")
    assert join(client.chat.completions.create(**QUESTION, stream=True))[1] == "length"


def test_a_node_of_ranks_is_lost(deployed: Deployed, client: Any) -> None:
    deployed.deploy(**TWO_NODES)
    expected = join(client.chat.completions.create(**QUESTION, stream=True))[0]
    _, of_ranks = find_nodes(deployed)
    before = set(list_servers())
    with load(client, 2) as asked:
        wait_until(lambda: len(asked.texts) > 2, "streams run")
        deployed.cluster.remove_node(of_ranks, allow_graceful=False)
        wait_until(lambda: before.isdisjoint(list_servers()), "the whole group ends")
        deployed.add_node(num_cpus=2)
        wait_until(lambda: deployed.count_servers() == 1, "another group")
        num_before, num_failed = len(asked.texts), len(asked.failures)
        wait_until(lambda: len(asked.texts) > num_before + 2, "streams run on")
    # Each was told once how it ended: by all of its answer, or by an error.
    assert {type(error) for error in asked.failures} <= LOST
    assert asked.failures[num_failed:] == []
    assert set(asked.texts) == {expected}
