"""The command line's servers."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.target import Target, add_target_arguments, make_targets


def make(*argv: str) -> list[Target]:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_target_arguments(parser)
    return make_targets(parser.parse_args(argv))


def test_variants_are_ours_with_other_values() -> None:
    sets = "models.0.weights.format=int8 models.0.cache.page_size=32"
    ours, variant = make("--config", "c.yaml", "--variant", f"int8={sets}", "--model", "m")
    assert (ours.name, variant.name) == ("llmplug", "int8")
    assert ours.is_ours
    assert variant.is_ours
    assert ours.model == variant.model == "m"
    assert ours.cost == variant.cost == Path("c.yaml")
    assert variant.sets == tuple(sets.split())
    added = [argument for value in sets.split() for argument in ("--set", value)]
    at = ours.command.index("--set")
    assert variant.command == (*ours.command[:at], *added, *ours.command[at:])
    assert ours.command[-1] == "server.port={port}"


def test_peers_are_told_how_to_be_spoken_to() -> None:
    ours, llama, hf = make(
        *("--config", "c.yaml", "--peer", "llama.cpp=llama-server -m 'a b.gguf' --port {port}"),
        *("--peer-url", "hf=http://127.0.0.1:8000/v1/", "--peer-api", "hf=chat"),
        *("--peer-model", "hf=org/name", "--peer-cost", "llama.cpp=d.yaml"),
        *("--peer-field", "hf=ignore_eos=null", "--peer-field", 'hf=stop=["a=b"]'),
    )
    assert llama.command == ("llama-server", "-m", "a b.gguf", "--port", "{port}")
    assert (llama.cost, llama.api, llama.fields) == (Path("d.yaml"), "tokens", {})
    assert hf.url == "http://127.0.0.1:8000"
    assert (hf.api, hf.model, hf.cost) == ("chat", "org/name", None)
    assert hf.fields == {"ignore_eos": None, "stop": ["a=b"]}
    assert not llama.is_ours
    assert ours.fields == {}


def test_another_server_can_be_the_first() -> None:
    (server,) = make("--command", "serve {port}", "--cost", "c.yaml", "--model", "m")
    assert (server.name, server.command, server.is_ours) == ("server", ("serve", "{port}"), False)
    assert (server.cost, server.model) == (Path("c.yaml"), "m")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--url", "http://h:1", "--peer", "server=x"], "a name of its own"),
        (["--url", "http://h:1", "--variant", "a=b=c"], "needs --config"),
        (["--url", "http://h:1", "--peer-api", "other=chat"], "no server is named 'other'"),
        (["--url", "http://h:1", "--peer-field", "other=a=1"], "no server is named 'other'"),
        (["--url", "http://h:1", "--peer-api", "server=grpc"], "'grpc' is none of tokens"),
    ],
)
def test_what_cannot_be_meant_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(*argv)


@pytest.mark.parametrize(
    "argv",
    [["--peer", "llama-server"], ["--peer", "=x"], ["--peer-field", "a=b=no json"], ["--peer=a="]],
)
def test_what_cannot_be_read_is_refused(argv: list[str]) -> None:
    with pytest.raises(argparse.ArgumentError, match=r"NAME=|JSON"):
        make("--url", "http://h:1", *argv)
