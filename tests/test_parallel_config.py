"""What the config says of ranks on several machines."""

from __future__ import annotations

import pytest

from llmplug.config import dump_yaml, parse
from llmplug.errors import ConfigError


@pytest.mark.parametrize(
    ("parallel", "message"),
    [
        ("{tensor: 3, nodes: 2}", "parallel.nodes: 3 ranks are not divided evenly by 2 nodes"),
        ("{tensor: 2, nodes: 2, address: host}", "parallel.address: expected HOST:PORT"),
        ("{tensor: 2, nodes: 2, address: 'host:0'}", "parallel.address: expected HOST:PORT"),
        ("{tensor: 2, nodes: 2, secret: short}", "parallel.secret: expected 16 characters"),
    ],
)
def test_ranks_that_cannot_meet_are_refused(parallel: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(f"models: [{{source: /x, parallel: {parallel}}}]")


def test_ranks_of_two_engines_cannot_meet_in_one_place() -> None:
    spread = "{tensor: 2, nodes: 2, address: 'host:1'}"
    with pytest.raises(ConfigError, match=r"models.0.replicas: .* another server for each"):
        parse(f"models: [{{source: /x, replicas: 2, parallel: {spread}}}]")
    with pytest.raises(ConfigError, match=r"host:1 is already that of models.0"):
        parse(f"models: [{{source: /x, parallel: {spread}}}, {{source: /y, parallel: {spread}}}]")


def test_what_ranks_know_each_other_by_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKS", "nobody knows this")
    config = parse("models: [{source: /x, parallel: {secret: '${RANKS}'}}]")
    assert config.models[0].parallel.secret == "nobody knows this"
    assert "nobody" not in repr(config)
    assert "secret: ${MODELS_0_PARALLEL_SECRET}" in dump_yaml(config)
