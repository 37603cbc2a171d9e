"""OpenAI's client against servers on a Ray cluster that scales, is updated and loses a node."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from .clients import LOST, ask, join, load, read_metric
from .conftest import Deployed, list_servers, wait_until

pytestmark = pytest.mark.slow

ONE = {"deploy.max_servers": 1}
# What servers do not read starts none of them anew; what they read stays as the update left it.
RENAMED = {"models.0.aliases": "[renamed]"}
TWO = {"deploy.min_servers": 2, "deploy.max_servers": 2, **RENAMED}


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


def test_more_than_may_wait_are_refused(deployed: Deployed, client: Any) -> None:
    deployed.deploy(**ONE)
    long = ask("And?", max_tokens=1000)

    def ask_once(_: int) -> str | openai.RateLimitError | None:
        try:
            return join(client.chat.completions.create(**long, stream=True))[1]
        except openai.RateLimitError as error:
            return error

    # The server takes 8, and 4 more may wait in each of 2 ingresses.
    with ThreadPoolExecutor(40) as pool:
        told = list(pool.map(ask_once, range(40)))
    refused = [each for each in told if isinstance(each, openai.RateLimitError)]
    assert {each for each in told if each not in refused} == {"length"}
    assert "All servers are busy." in {each.body["message"] for each in refused}
    assert all(float(each.response.headers["retry-after"]) > 0 for each in refused)


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


def make_quick(**keys: Any) -> dict[str, Any]:
    """Have two servers come and go as soon as Ray can."""
    quick = {"upscale_delay_s": 1.0, "downscale_delay_s": 2.0, "look_back_s": 10.5}
    keys = {"max_servers": 2, **quick, **keys}
    return RENAMED | {f"deploy.{key}": value for key, value in keys.items()}


def test_a_server_that_is_not_ready_is_replaced(deployed: Deployed, client: Any) -> None:
    deployed.deploy(**ONE, **RENAMED)
    before = set(list_servers())
    weights = deployed.config.parent / "tiny/model.safetensors"
    hidden = weights.rename(weights.with_suffix(".hidden"))
    try:
        for pid in list_servers("engine"):  # the server starts another, which finds no weights
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: before.isdisjoint(list_servers()), "the server goes")
    finally:
        hidden.rename(weights)
    wait_until(lambda: deployed.count_servers() == 1, "another server")
    assert join(client.chat.completions.create(**ask("And?"), stream=True))[1] == "length"


def test_more_servers_come_with_load_and_go_with_it(deployed: Deployed, client: Any) -> None:
    deployed.deploy(**make_quick(target_requests=1.5))
    assert deployed.count_servers() == 1
    with load(client, 3) as asked:
        wait_until(lambda: deployed.count_servers() == 2, "a second server")
    assert asked.failures == []
    wait_until(lambda: deployed.count_servers() == 1, "the second server goes")
    client.chat.completions.create(**ask("And?"))


def test_more_servers_come_with_tokens(deployed: Deployed, client: Any) -> None:
    deployed.deploy(**make_quick(target_requests=100.0, target_cache=0.01))
    assert deployed.count_servers() == 1
    # A token takes 256 bytes of 64 MiB, so these prompts take three hundredths.
    messages = [{"role": "user", "content": "What came first? " * 500}]
    question = ask("", messages=messages, max_tokens=7000)
    with client.chat.completions.create(**question, stream=True):
        wait_until(lambda: deployed.count_servers() == 2, "a second server", 120)


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


def test_what_is_removed_leaves_no_process(deployed: Deployed, client: Any) -> None:
    deployed.deploy(**TWO)
    client.chat.completions.create(**ask("And?"))
    assert list_servers() != {}
    removed = deployed.try_deploy({}, "--remove")
    deployed.keys = None
    assert removed.returncode == 0, removed.stderr
    assert list_servers() == {}
    again = deployed.try_deploy({}, "--remove")
    assert again.returncode == 2
    assert "no application 'llmplug' runs" in again.stderr
