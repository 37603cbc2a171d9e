"""OpenAI's client against servers on a Ray cluster that scales, is updated and loses a node."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from .conftest import Deployed, list_servers, wait_until

pytestmark = pytest.mark.slow

ONE = {"deploy.max_servers": 1}
# What servers do not read starts none of them anew; what they read stays as the update left it.
RENAMED = {"models.0.aliases": "[renamed]"}
TWO = {"deploy.min_servers": 2, "deploy.max_servers": 2, **RENAMED}

LOST = {openai.APIConnectionError, openai.APIError, openai.InternalServerError}


def ask(question: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    more = {"temperature": 0, "max_tokens": 32, "extra_body": {"ignore_eos": True}}
    return {"model": "tiny", "messages": messages, **more, **fields}


def join(stream: Any) -> tuple[str, str | None]:
    """Read a stream to its end: its text, and why it ended."""
    text, reason = "", None
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason


def read_metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=30).raise_for_status().text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.fixture(scope="module")
def client(deployed: Deployed) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{deployed.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@dataclass
class Load:
    """What clients that ask without a pause were told so far."""

    texts: list[str | None] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def ask_on(self, client: Any) -> None:
        while not self.is_over.is_set():
            try:
                stream = client.chat.completions.create(**ask("And?", max_tokens=200), stream=True)
                text, reason = join(stream)
                self.texts.append(text if reason == "length" else None)
            except openai.OpenAIError as error:
                self.failures.append(error)


@contextmanager
def load(client: Any, num_clients: int) -> Iterator[Load]:
    """Ask while the block runs; at its end all that was begun is answered."""
    asked = Load()
    with ThreadPoolExecutor(num_clients) as pool:
        tasks = [pool.submit(asked.ask_on, client) for _ in range(num_clients)]
        try:
            yield asked
        finally:
            asked.is_over.set()
    for task in tasks:
        task.result()


def test_answers_stream_through(deployed: Deployed, client: Any) -> None:
    deployed.deploy(**ONE)
    whole = client.chat.completions.create(**ask("Hello?"))
    stream = client.chat.completions.create(**ask("Hello?"), stream=True)
    assert join(stream) == (whole.choices[0].message.content, whole.choices[0].finish_reason)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(**ask("Hello?", temperature=-1))
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**ask("Hello?", model="other"))


def test_whoever_leaves_ends_the_work(deployed: Deployed, client: Any) -> None:
    deployed.deploy(**ONE)
    aborts = 'llmplug_aborts_total{model="tiny",reason="client"}'
    before = read_metric(deployed.url, aborts)
    stream = client.chat.completions.create(**ask("On and on?", max_tokens=15000), stream=True)
    next(iter(stream))
    assert read_metric(deployed.url, "llmplug_running{") == 1
    stream.close()
    wait_until(lambda: read_metric(deployed.url, aborts) == before + 1, "it is aborted", 60)
    wait_until(lambda: read_metric(deployed.url, "llmplug_running{") == 0, "it ends", 60)


def test_an_update_drops_no_stream(deployed: Deployed, client: Any) -> None:
    deployed.deploy(**ONE)
    expected, _ = join(client.chat.completions.create(**ask("And?", max_tokens=200), stream=True))
    with load(client, 2) as asked:
        wait_until(lambda: len(asked.texts) > 2, "streams run")
        deployed.deploy(**ONE, **RENAMED)
        num_before = len(asked.texts)
        wait_until(lambda: deployed.count_servers() == 1, "the old server is gone")
        wait_until(lambda: len(asked.texts) > num_before + 2, "streams run on")
    assert asked.failures == []
    assert set(asked.texts) == {expected}
    client.chat.completions.create(**ask("And?", model="renamed"))


def test_an_update_that_cannot_start_leaves_what_runs(deployed: Deployed, client: Any) -> None:
    deployed.deploy(**ONE, **RENAMED)
    refused = deployed.try_deploy({**ONE, **RENAMED, "models.0.tool_parser": "no-such-dialect"})
    deployed.keys = None
    assert refused.returncode == 2
    assert "does not come up" in refused.stderr
    assert "no-such-dialect" in refused.stderr
    assert join(client.chat.completions.create(**ask("And?"), stream=True))[1] == "length"


def test_more_servers_come_with_load_and_go_with_it(deployed: Deployed, client: Any) -> None:
    quick = {"upscale_delay_s": 1.0, "downscale_delay_s": 2.0, "look_back_s": 10.5}
    keys = {"target_requests": 1.5, "max_servers": 2, **quick}
    deployed.deploy(**RENAMED, **{f"deploy.{key}": value for key, value in keys.items()})
    assert deployed.count_servers() == 1
    with load(client, 3) as asked:
        wait_until(lambda: deployed.count_servers() == 2, "a second server")
    assert asked.failures == []
    wait_until(lambda: deployed.count_servers() == 1, "the second server goes")
    client.chat.completions.create(**ask("And?"))


def test_conversations_go_on_where_they_began(deployed: Deployed, client: Any) -> None:
    deployed.deploy(**TWO)
    wait_until(lambda: deployed.count_servers() == 2, "two servers")
    for number in range(6):
        question = f"{number} is the number of this conversation. " * 20
        messages = [{"role": "user", "content": question}]
        first = client.chat.completions.create(**ask("", messages=messages))
        messages.append({"role": "assistant", "content": "Yes."})
        messages.append({"role": "user", "content": "And then?"})
        second = client.chat.completions.create(**ask("", messages=messages))
        assert second.usage.prompt_tokens_details.cached_tokens > first.usage.prompt_tokens // 2


def test_a_node_that_is_lost_is_made_up_for(deployed: Deployed, client: Any) -> None:
    deployed.deploy(**TWO)
    wait_until(lambda: deployed.count_servers() == 2, "two servers")
    expected, _ = join(client.chat.completions.create(**ask("And?", max_tokens=200), stream=True))
    assert len(list_servers()) >= 2  # or nothing can be said of their end
    (node,) = deployed.cluster.worker_nodes
    with load(client, 3) as asked:
        wait_until(lambda: len(asked.texts) > 5, "streams run")
        deployed.cluster.remove_node(node, allow_graceful=False)
        wait_until(lambda: deployed.count_servers() < 2, "Ray sees it")
        wait_until(lambda: deployed.count_servers() == 2, "another server")
        num_before, num_failed = len(asked.texts), len(asked.failures)
        wait_until(lambda: len(asked.texts) > num_before + 5, "streams run on")
    # What was lost was told so: by an error, as an event or as a status, or by a connection cut.
    assert {type(error) for error in asked.failures[:num_failed]} <= LOST
    assert asked.failures[num_failed:] == []
    assert set(asked.texts) == {expected}


def test_plugins_that_a_node_lacks_are_named(deployed: Deployed, tmp_path: Path) -> None:
    package = tmp_path / "acme_words-1.2.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-words\nVersion: 1.2\n")
    (package / "entry_points.txt").write_text("[llmplug]\nwords = acme_words\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    node = deployed.add_node(num_cpus=1, env_vars={"PYTHONPATH": path})
    refused = deployed.try_deploy(ONE)
    deployed.cluster.remove_node(node)
    assert refused.returncode == 2
    (line,) = [each for each in refused.stderr.splitlines() if "acme-words:words" in each]
    assert re.search(r"1\.2 \(acme_words\) on \d+\.\d+\.\d+\.\d+ \(\w+\); missing on ", line)
    assert "here" in line.partition("missing on")[2]
