"""What servers are started with: a config, without what is Ray's alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmplug.config import Config, parse
from llmplug.errors import ConfigError

# The section of a config that no server reads, as it is mostly written.
_DEPLOY_SECTION = re.compile(r"^deploy:.*?(?=^[^\s#]|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ServerSource:
    """What a server is started with, the same on each node.

    Attributes:
        config: text of the config file; `${NAME}` is read from the environment of its node.
        sets: overrides, as after `--set`.
        folder: where relative paths begin, if the node has such a folder.
    """

    config: str
    sets: tuple[str, ...]
    folder: str


def make_source(config: str, sets: Sequence[str], folder: str) -> ServerSource:
    """Say what servers are started with.

    What is Ray's to know is left out, as a change of that alone need not start servers anew.

    Raises:
        ConfigError: something in the config is wrong, or for a single server.
    """
    sets = tuple(each for each in sets if not each.startswith("deploy."))
    whole = parse(config, sets=sets)
    _refuse_client_ca(whole)
    rest = _DEPLOY_SECTION.sub("", config)
    try:
        is_all = _for_servers(parse(rest, sets=sets)) == _for_servers(whole)
    except ConfigError:
        is_all = False
    return ServerSource(rest if is_all else config, (*sets, *_keep_apart(whole)), folder)


def _refuse_client_ca(config: Config) -> None:
    """Refuse what Ray's proxies, which clients talk to, do not do: they let everybody in."""
    tls = config.server.tls
    if tls is not None and tls.client_ca is not None:
        raise ConfigError("server.tls.client_ca: Ray's proxies ask clients for no certificate")


def _keep_apart(config: Config) -> Iterator[str]:
    """Yield the overrides that keep servers of one node out of each other's files and ports."""
    stores = {"batches": "none", "responses": "memory"}
    for name, instead in stores.items():
        path = getattr(config.server, name).path
        if path not in {"auto", instead}:
            where = f"server.{name}.path"
            raise ConfigError(f"{where}: servers of a cluster share no files; say {instead}")
        yield f"server.{name}.path={instead}"
    yield "server.admin.port=null"


def _for_servers(config: Config) -> dict[str, Any]:
    return config.model_dump(exclude={"deploy"})
