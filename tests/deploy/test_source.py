"""What a server under Ray is started with: the config, without what is Ray's alone."""

from __future__ import annotations

import pytest

from llmplug.config import DeployConfig, parse
from llmplug.deploy.source import make_source
from llmplug.errors import ConfigError

MODELS = "models:\n  - source: /nowhere/model\n"
SERVER = "server: {port: 1234}  # deploy: nothing\n"


@pytest.mark.parametrize(
    "text",
    [
        f"{SERVER}deploy:\n  # two\n  max_servers: 2\n\n{MODELS}",
        f"deploy: {{max_servers: 2}}\n{SERVER}{MODELS}",
        f"{MODELS}deploy:\n  max_servers: 2\n  num_cpus: 2.0",
        f"{MODELS}# from here on\ndeploy:\n# for one\n  max_servers: 2\n{SERVER}",
        f"{MODELS}{SERVER}",
    ],
)
def test_what_is_rays_is_left_out_and_all_else_stays(text: str) -> None:
    source = make_source(text, ["deploy.num_gpus=1", "server.drain_s=5"], "/")
    assert "max_servers" not in source.config
    assert source.sets[:1] == ("server.drain_s=5",)
    rest = parse(source.config, sets=source.sets[:1])
    whole = parse(text, sets=["deploy.num_gpus=1", "server.drain_s=5"])
    assert rest.deploy == DeployConfig()
    assert rest.model_dump(exclude={"deploy"}) == whole.model_dump(exclude={"deploy"})
    assert whole.deploy.num_gpus == 1


@pytest.mark.parametrize("text", [f"{MODELS}deploy: {{\nmax_servers: 2\n}}\n{SERVER}"])
def test_what_cannot_be_cut_out_stays(text: str) -> None:
    assert make_source(text, [], "/").config == text


def test_servers_of_one_node_share_no_file_and_no_port() -> None:
    source = make_source(f"server: {{admin: {{port: 9100}}}}\n{MODELS}", [], "/")
    server = parse(source.config, sets=source.sets).server
    assert (server.batches.path, server.responses.path, server.admin.port) == (
        *("none", "memory"),
        None,
    )
    for key in ("batches", "responses"):
        with pytest.raises(ConfigError, match=rf"server\.{key}\.path"):
            make_source(MODELS, [f"server.{key}.path=/var/lib/one"], "/")


def test_no_client_is_let_in_by_proxies_that_ask_for_no_certificate() -> None:
    tls = "server.tls={certificate: /c.pem, private_key: /k.pem%s}"
    make_source(MODELS, [tls % ""], "/")
    with pytest.raises(ConfigError, match=r"server\.tls\.client_ca"):
        make_source(MODELS, [tls % ", client_ca: /ca.pem"], "/")
